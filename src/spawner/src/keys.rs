//! Keyrings that a user's processes leave: they outlive them all, and the next job of that user would find what is in them.
//!
//! Where the kernel or a filter refuses keyrings there is nothing to clear: the filter of a service holds for its jobs too.

use std::io;

use crate::sys::Keyctl::{Clear, GetPersistent, SetPermissions};
use crate::sys::keyctl;

/// `keyctl(2)`: this process' own keyring, the user's, and what its sessions begin with.
const PROCESS_KEYRING: libc::c_long = -2;
const USER_KEYRING: libc::c_long = -4;
const USER_SESSION_KEYRING: libc::c_long = -5;
/// What the kernel gives the user's keyrings: all for the user, and for who holds them all but changing that.
const OF_USER: libc::c_long = 0x1f3f_0000;

/// Empties the keyrings of the user that this process is. Nobody else of that user may live.
pub(crate) fn clear_own() -> io::Result<()> {
    for keyring in [USER_KEYRING, USER_SESSION_KEYRING] {
        // A job may have taken the right to write from everybody, its user too.
        let _ = keyctl(SetPermissions, keyring, OF_USER);
        or_none(keyctl(Clear, keyring, 0))?;
    }
    Ok(())
}

/// Empties the keyring that the kernel keeps for days for a user without processes. Only for root.
pub(crate) fn clear_persistent(uid: u32) -> io::Result<()> {
    if let Some(keyring) = or_none(keyctl(GetPersistent, libc::c_long::from(uid), PROCESS_KEYRING))? {
        or_none(keyctl(Clear, keyring, 0))?;
        or_none(keyctl(Clear, PROCESS_KEYRING, 0))?;
    }
    Ok(())
}

/// None: there are no keyrings here, or not this one: it was revoked, has expired, or was never made and now cannot be.
fn or_none(result: io::Result<libc::c_long>) -> io::Result<Option<libc::c_long>> {
    match result {
        Ok(result) => Ok(Some(result)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP) => Ok(None),
            Some(libc::EKEYREVOKED | libc::EKEYEXPIRED | libc::EDQUOT) => Ok(None),
            _ => Err(error),
        },
    }
}
