//! What TCP refuses before a route is asked.
//!
//! Any process of this host and any web page in a browser on it can reach the loopback. A page that made its own name point
//! to 127.0.0.1 (DNS rebinding) still sends that name as `Host`, and a page that sends a form or a script's request says
//! where it comes from in `Origin`. So `Host` must be a name of ours, and an `Origin` must be this very server.

use super::{App, Fail};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Names of the loopback that need no configuration.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Lets a request through or answers it.
pub(super) async fn check(State(app): State<App>, request: Request, next: Next) -> Response {
    match judge(&app.context.hosts, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fail) => fail.into_response(),
    }
}

/// Everything that needs a token, while there are none.
pub(super) async fn no_token() -> Fail {
    Fail::new(
        StatusCode::UNAUTHORIZED,
        "no-token",
        "this needs a token, and this version has none yet; use the unix socket (`ci-runner` does)",
    )
}

fn judge(hosts: &[String], uri: &Uri, headers: &HeaderMap) -> Result<(), Fail> {
    let misdirected = |host: &str| {
        let why = format!(
            "this server is not {host:?}; it answers to localhost, 127.0.0.1, [::1] and the names in `http.hosts` of the configuration"
        );
        Err(Fail::new(StatusCode::MISDIRECTED_REQUEST, "misdirected", why))
    };
    let mut given = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (given.next(), given.next()) else { return misdirected("") };
    let Some(host) = host.to_str().ok().filter(|host| is_ours(hosts, host)) else {
        return misdirected(&String::from_utf8_lossy(host.as_bytes()));
    };
    // An absolute target, as sent to proxies, names its host itself.
    if let Some(authority) = uri.authority().filter(|authority| !is_ours(hosts, authority.as_str())) {
        return misdirected(authority.as_str());
    }
    match headers.get(header::ORIGIN) {
        Some(origin) if !is_same(origin.as_bytes(), host) => {
            Err(Fail::forbidden("requests from other web pages are refused"))
        }
        _ => Ok(()),
    }
}

/// A host with or without port, of this server.
fn is_ours(hosts: &[String], host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let known = LOOPBACK.iter().copied().chain(hosts.iter().map(String::as_str));
    !name.is_empty() && known.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}

fn is_same(origin: &[u8], host: &str) -> bool {
    origin.strip_prefix(b"http://").is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn status(uri: &str, pairs: &[(&str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let hosts = ["ci.example.org".to_owned()];
        judge(&hosts, &uri.parse().unwrap(), &headers).map_or_else(|fail| fail.document().status, |()| 200)
    }

    #[test]
    fn only_our_own_names_are_answered() {
        for (host, expected) in [
            ("localhost", 200),
            ("LocalHost:8080", 200),
            ("127.0.0.1:8080", 200),
            ("[::1]", 200),
            ("[::1]:8080", 200),
            ("ci.example.org:8080", 200),
            ("evil.example", 421),
            ("localhost.evil.example", 421),
            ("127.0.0.1.evil.example:8080", 421),
            ("", 421),
            (":8080", 421),
            ("localhost:80x", 421),
            ("localhost:", 421),
        ] {
            assert_eq!(status("/health", &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status("/health", &[]), 421, "none at all");
        assert_eq!(status("/health", &[("host", "localhost"), ("host", "localhost")]), 421, "two");
        assert_eq!(status("http://evil.example/health", &[("host", "localhost")]), 421, "an absolute target");
        assert_eq!(status("http://localhost/health", &[("host", "localhost")]), 200);
    }

    #[test]
    fn other_pages_are_refused() {
        for (origin, expected) in [
            ("http://localhost:8080", 200),
            ("http://localhost:3000", 403),
            ("https://localhost:8080", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
        ] {
            assert_eq!(status("/status", &[("host", "localhost:8080"), ("origin", origin)]), expected, "{origin}");
        }
    }
}
