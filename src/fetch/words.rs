//! What a server says of a refusal, in its own words: a few of them, and nothing that a terminal would obey.

use std::fmt;
use std::time::Duration;

use reqwest::Response;
use serde::Deserialize;

use crate::plain::plain;

/// Bytes of a refusal's body that are read.
const LARGEST: usize = 16 << 10;
/// How long they are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters that are shown.
const LONGEST: usize = 200;

/// Codes and message of a refusal (OCI distribution-spec 1.1, error codes); nothing where it has none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The first of what it says.
    shown: Option<String>,
    codes: Vec<String>,
    /// Whether somebody who speaks TLS says so, as most do that are spoken to without.
    of_tls: bool,
}

impl Said {
    fn parse(body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Refusal {
            errors: Vec<Fault>,
        }
        #[derive(Deserialize)]
        struct Fault {
            code: Option<String>,
            message: Option<String>,
        }
        let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
        let of_tls = refusal.is_none() && {
            let text = String::from_utf8_lossy(body).to_ascii_lowercase();
            ["https", "ssl", "tls"].iter().any(|word| text.contains(word))
        };
        let faults = refusal.map(|refusal| refusal.errors).unwrap_or_default();
        let codes = faults.iter().filter_map(|fault| fault.code.clone()).collect();
        let parts = faults.into_iter().next().map(|fault| [fault.code, fault.message]);
        let parts = parts.into_iter().flatten().flatten().map(|text| plain(&text));
        let parts: Vec<String> = parts.filter(|text| !text.is_empty()).collect();
        let text: String = parts.join(": ").chars().take(LONGEST).collect();
        Said { shown: Some(text).filter(|text| !text.is_empty()), codes, of_tls }
    }

    /// Of all that it says.
    pub fn codes(&self) -> &[String] {
        &self.codes
    }

    pub fn is_of_tls(&self) -> bool {
        self.of_tls
    }

    /// Reads a refusal's body, as far as it comes soon.
    pub(super) async fn read(response: &mut Response) -> Self {
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                body.extend_from_slice(&chunk);
                if body.len() > LARGEST {
                    break;
                }
            }
        };
        // whatever did not come in time is not waited for
        tokio::time::timeout(PATIENCE, read).await.unwrap_or_default();
        Said::parse(&body)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.iter().try_for_each(|text| write!(f, ": {text}"))
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_its_first_code_and_message() {
        let said = |body: &str| Said::parse(body.as_bytes()).to_string();
        let body = r#"{"errors":[{"code":"DENIED","message":"quota exceeded: 10GB","detail":{}},{"code":"X"}]}"#;
        assert_eq!(said(body), ": DENIED: quota exceeded: 10GB");
        assert_eq!(Said::parse(body.as_bytes()).codes(), ["DENIED", "X"]);
        assert_eq!(said(r#"{"errors":[{"code":"DENIED"}]}"#), ": DENIED");
        assert_eq!(said(r#"{"errors":[{"message":null}]}"#), "");
        for none in ["", "<html>no</html>", "{}", r#"{"errors":[]}"#, r#"{"errors":"x"}"#, "[1]"] {
            assert_eq!(said(none), "", "{none}");
        }
    }

    #[test]
    fn whoever_speaks_tls_says_so() {
        let is_of_tls = |body: &str| Said::parse(body.as_bytes()).is_of_tls();
        assert!(is_of_tls("Client sent an HTTP request to an HTTPS server.\n"));
        assert!(is_of_tls("<center>The plain HTTP request was sent to HTTPS port</center>"));
        assert!(is_of_tls("You're speaking plain HTTP to an SSL-enabled server port."));
        assert!(!is_of_tls("") && !is_of_tls("Bad Request"));
        assert!(!is_of_tls(r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no https"}]}"#));
    }

    #[test]
    fn what_is_shown_is_short_and_moves_no_cursor() {
        let body = r#"{"errors":[{"code":"A\u001b[2J","message":"a\nerror: b\u202ec\u0007"}]}"#;
        assert_eq!(Said::parse(body.as_bytes()).to_string(), ": A [2J: a error: bc");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "ä".repeat(1000));
        assert_eq!(Said::parse(long.as_bytes()).to_string().chars().count(), 2 + LONGEST);
    }
}
