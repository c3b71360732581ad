//! A URL that may hold an access token.

use url::Url;
use zeroize::Zeroizing;

/// A JSON-RPC URL. Zeroized on drop. No `Debug`, `Display`, `Clone` or `Serialize`.
pub struct SecretUrl {
    text: Zeroizing<String>,
    origin: String,
}

impl SecretUrl {
    /// Parses an `http` or `https` URL with a host; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let host = url.host_str()?;
        let port = url.port_or_known_default()?;
        matches!(url.scheme(), "http" | "https").then(|| Self {
            text: Zeroizing::new(text.to_owned()),
            origin: format!("{}://{host}:{port}", url.scheme()),
        })
    }

    /// Whether the URL consists of scheme, host and port only, and so cannot hold a secret.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        Url::parse(&self.text).is_ok_and(|url| {
            url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        })
    }

    /// Scheme, host and port: fit for logs.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The whole URL, for the one client that connects to it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}
