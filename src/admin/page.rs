//! The status page: one file, which asks nobody but this listener.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use http::header::{
    ACCEPT, CONTENT_SECURITY_POLICY, HeaderValue, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Response, StatusCode};

use crate::http::{Body, text};

/// Its styles and its script are in it. Nothing that it shows is: it asks for `/events`.
const PAGE: &str = include_str!("page.html");

/// The page, and what a browser may do with it.
#[derive(Debug)]
pub(super) struct Page {
    policy: HeaderValue,
}

/// Whether a client would rather have a page than a line of text: a browser that was sent here.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').filter_map(|part| part.split(';').next()).any(|kind| kind.trim() == "text/html")
}

impl Page {
    pub(super) fn new() -> Self {
        // Base64 and these words are good in a header.
        let policy = HeaderValue::from_str(&policy(PAGE));
        Page { policy: policy.unwrap_or(HeaderValue::from_static("default-src 'none'")) }
    }

    pub(super) fn response(&self) -> Response<Body> {
        let mut response = text(StatusCode::OK, "text/html; charset=utf-8", PAGE);
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(VARY, HeaderValue::from_static("accept"));
        response
    }
}

/// Only this script runs, only this style applies, and only this listener is asked (CSP Level 3).
fn policy(page: &str) -> String {
    let hash = |element: &str| {
        let inner = page
            .split_once(&format!("<{element}>"))
            .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")).map(|(inner, _)| inner));
        BASE64.encode(digest(&SHA256, inner.unwrap_or_default().as_bytes()).as_ref())
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(accept: &'static str) -> bool {
        wanted(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]))
    }

    #[test]
    fn a_browser_gets_the_page_and_others_a_line() {
        assert!(accepting("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(accepting("application/xml, text/html;q=0.9"));
        assert!(!accepting("*/*") && !accepting("text/plain") && !accepting(""));
        assert!(!wanted(&HeaderMap::new()));
    }

    #[test]
    fn the_page_asks_nobody_else() {
        for foreign in ["http:", "https:", "src=", "@import", "url(", "innerHTML", "style=", " on"] {
            let allowed = |line: &&str| !line.contains("www.w3.org/2000/svg");
            let mut lines = PAGE.lines().filter(allowed).filter(|line| match foreign {
                // A handler in an attribute.
                " on" => {
                    line.contains('<')
                        && line.split(" on").skip(1).any(|rest| {
                            rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).starts_with("=\"")
                        })
                }
                foreign => line.contains(foreign),
            });
            assert_eq!(lines.next(), None, "{foreign}");
        }
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}>")).count(), 1);
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1);
        }
    }

    #[test]
    fn phases_have_one_name_in_the_page_and_in_the_commands() {
        for (phase, words) in crate::overview::words::PHASES {
            assert!(PAGE.contains(&format!(" {phase}: \"{words}\"")), "{phase}: {words}");
        }
    }

    #[test]
    fn only_what_is_in_the_page_may_run() {
        let policy = policy("<style>a</style><script>b</script>");
        // echo -n b | openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='; "),
            "{policy}"
        );
        assert!(
            policy.contains("style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='; "),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("-inline"), "{policy}");
        assert!(Page::new().policy.to_str().unwrap().contains("sha256-"));
    }
}
