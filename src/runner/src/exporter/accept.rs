//! What a scraper wants: the format and the packing, by RFC 9110 (content negotiation). Pure.

use super::kitchen::Form;
use ci_runner_hostmetrics::Format;

/// The form for these values of `Accept` and `Accept-Encoding`.
pub(super) fn form(accept: &str, encoding: &str) -> Form {
    let (mut text, mut openmetrics) = (0.0_f32, 0.0_f32);
    for (kind, parameters, weight) in items(accept) {
        match kind.as_str() {
            "application/openmetrics-text" if is_known_version(&parameters) => openmetrics = openmetrics.max(weight),
            "text/plain" | "text/*" | "*/*" => text = text.max(weight),
            _ => {}
        }
    }
    let format = if openmetrics > text { Format::OpenMetrics } else { Format::Text };
    let gzip = items(encoding).any(|(name, _, weight)| name == "gzip" && weight > 0.0);
    Form { format, gzip }
}

fn is_known_version(parameters: &[(String, String)]) -> bool {
    let version = parameters.iter().find(|(name, _)| name == "version");
    version.is_none_or(|(_, version)| version == "1.0.0" || version == "0.0.1")
}

type Item = (String, Vec<(String, String)>, f32);

/// Items of a list: name, parameters, weight.
fn items(list: &str) -> impl Iterator<Item = Item> {
    list.split(',').map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let pair = |part: &str| {
            let (name, value) = part.split_once('=')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned()))
        };
        let parameters: Vec<(String, String)> = parts.filter_map(pair).collect();
        let weight = parameters.iter().find(|(name, _)| name == "q").map_or(1.0, |(_, q)| q.parse().unwrap_or(0.0));
        (name, parameters, weight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scrapers_say_is_understood() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let cases = [
            (prometheus, Format::OpenMetrics),
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;version=9.9.9,text/plain;q=0.1", Format::Text),
            ("application/openmetrics-text;q=0.1, text/plain", Format::Text),
            ("application/openmetrics-text;q=x", Format::Text),
            (";;;,,,=", Format::Text),
        ];
        for (accept, format) in cases {
            assert_eq!(form(accept, "").format, format, "{accept}");
        }
        for (encoding, gzip) in
            [("gzip", true), ("br, GZIP;q=0.5", true), ("gzip;q=0", false), ("", false), ("identity", false)]
        {
            assert_eq!(form("", encoding).gzip, gzip, "{encoding}");
        }
    }
}
