//! A small file of a server that is no registry: a signature in the place that registries.d names.

use anyhow::{Context as _, Result};
use ureq::http::Uri;

use super::body::read_all;
use super::transport::{Question, host_of};
use super::{Client, Hurry};
use crate::error::Fail;

impl Client {
    /// The file at `url`, `http` or `https`; `None` when there is none. No login is shown.
    ///
    /// # Errors
    /// `Usage` for what is no such address; the network's, for more than `limit` bytes too.
    pub fn small_file(&self, url: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let uri: Uri = url
            .parse()
            .ok()
            .filter(|uri: &Uri| {
                uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
            })
            .ok_or_else(|| {
                Fail::usage(format!("`{}` is no address", url.escape_debug()))
                    .hint("known are file://, http:// and https://")
            })?;
        let mut hurry = Hurry::new(self.patience);
        let asking = || format!("getting `{url}`");
        let answer = self
            .patiently(&uri, &Question::default(), &mut hurry)
            .with_context(asking)?;
        match answer.response.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            other => {
                return Err(Fail::network(format!(
                    "`{}` answers {other} when asked for `{url}`",
                    host_of(&answer.uri)
                ))
                .into());
            }
        }
        let host = host_of(&answer.uri);
        let bytes = read_all(answer.response.into_body(), limit, &host, hurry.until)
            .map_err(|error| Fail::network(error.to_string()))
            .with_context(asking)?;
        Ok(Some(bytes))
    }
}
