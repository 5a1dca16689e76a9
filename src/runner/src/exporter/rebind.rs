//! What a page in a browser of this host may not do: read the figures through a name of its own that it made point to the
//! loopback (DNS rebinding). Such a request still says that name as `Host`. Pure.
//!
//! Asked only where anybody may scrape, on the loopback: a port that is open to a network is scraped under any name and is no
//! secret to it, and a page has neither certificate nor password.

use std::net::IpAddr;

/// Whether a request to this address, for this `Host`, may be what it says. `names` are those of the configuration.
pub(super) fn is_ours(local: IpAddr, host: Option<&str>, names: &[String]) -> bool {
    // Browsers always say it; probes in HTTP/1.0 do not.
    let (true, Some(host)) = (is_loopback(local), host) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    // An address names itself: nobody can make it point elsewhere.
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|mapped| mapped.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ours_are_told_on_the_loopback_only() {
        let names = ["ci.example.org".to_owned()];
        let check = |local: &str, host: Option<&str>| is_ours(local.parse().unwrap(), host, &names);
        for host in ["localhost", "LOCALHOST:9100", "127.0.0.1:9100", "[::1]:9100", "10.0.0.1", "CI.example.org:9100"] {
            assert!(check("127.0.0.1", Some(host)), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9100", "localhost.evil.example", "127.0.0.1.evil.example:9100", "", ":9100"]
        {
            for local in ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"] {
                assert!(!check(local, Some(host)), "{host} at {local}");
            }
            assert!(check("192.0.2.7", Some(host)), "{host} from a network");
        }
        assert!(check("127.0.0.1", None));
    }
}
