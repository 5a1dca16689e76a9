//! Signatures of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, in base64 behind `v1,`
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).

use crate::config::SecretPlace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::io::Read as _;
use std::path::PathBuf;

/// What the specification asks of a secret, bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// A file with a secret is one short line.
const FILE_BYTES_MAX: u64 = 4_096;
/// SHA-256 works on blocks of so many bytes.
const BLOCK: usize = 64;

/// A key. Has no `Debug` and no `Display`.
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_…` from its place. The text is not in the error.
    pub fn read(place: &SecretPlace) -> Result<Self, String> {
        let path = match place {
            SecretPlace::File(path) => path.clone(),
            SecretPlace::Credential(name) => {
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    format!("the credential {name:?} is not there: the service manager passed none (LoadCredential=)")
                })?;
                PathBuf::from(dir).join(name)
            }
        };
        let mut text = String::new();
        let file = std::fs::File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        file.map_err(|error| format!("cannot read the secret {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// From `whsec_` and base64.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mend =
            "write whsec_ and 24 to 64 random bytes in base64 (`echo whsec_$(head -c 32 /dev/urandom | base64)`)";
        let encoded =
            text.trim().strip_prefix("whsec_").ok_or_else(|| format!("holds no secret of a webhook; {mend}"))?;
        let key = STANDARD.decode(encoded).map_err(|_| format!("holds a secret that is no base64; {mend}"))?;
        if !SECRET_BYTES.contains(&key.len()) {
            return Err(format!("holds a secret of {} bytes; {mend}", key.len()));
        }
        Ok(Self(key))
    }
}

/// The value of `webhook-signature`. `timestamp`: Unix seconds of this try.
pub fn signature(secret: &Secret, id: &str, timestamp: i64, body: &str) -> String {
    let signed = format!("{id}.{timestamp}.{body}");
    format!("v1,{}", STANDARD.encode(hmac(&secret.0, signed.as_bytes())))
}

/// HMAC (RFC 2104) with SHA-256; keys are no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; BLOCK];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_reference_libraries_is_met() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").ok().unwrap();
        let made = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_bad_secret_is_refused_and_not_repeated() {
        for text in ["hunter2hunter2", "whsec_###hunter2", "whsec_aHVudGVyMg==", ""] {
            let Err(why) = Secret::parse(text) else { panic!("{text} was taken") };
            assert!(!why.contains("hunter2") && !why.contains("aHVudGVyMg"), "{why}");
        }
    }
}
