//! What a registry has: tags, repositories, search results; and whether it knows us.
//!
//! Sources: OCI distribution specification, "Listing Tags"; docker's registry API, `_catalog`; docker hub's and
//! quay's `/v1/search`, which others imitate.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use ureq::http::{StatusCode, Uri};

use super::access::Access;
use super::token::percent;
use super::transport::{Answer, Question, host_of, join};
use super::{Client, DOCKER_HUB, Hurry, header, read_all, told};
use crate::error::Fail;
use crate::image::manifest::{MAX_DOCUMENT, read};

/// Most names that are listed; docker hub's largest repositories have some ten thousand tags.
const MAX_NAMES: usize = 1_000_000;
/// Where docker.io is searched.
const DOCKER_HUB_SEARCH: &str = "index.docker.io";
/// Names in one page.
const PAGE: usize = 1000;

/// One result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// Repository, without the registry.
    pub name: String,
    /// One line, perhaps.
    #[serde(default, deserialize_with = "crate::image::manifest::null_is_empty")]
    pub description: String,
    /// How many like it.
    #[serde(
        default,
        alias = "stars",
        deserialize_with = "crate::image::manifest::null_is_empty"
    )]
    pub star_count: u64,
    /// Whether the registry itself vouches for it.
    #[serde(default, deserialize_with = "crate::image::manifest::null_is_empty")]
    pub is_official: bool,
}

impl Client {
    /// All tags of a repository, as the registry sorts them.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Network`; `Corrupt` for an answer that is none.
    pub fn tags(&self, repository: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default, deserialize_with = "crate::image::manifest::null_is_empty")]
            tags: Vec<String>,
        }
        self.pages(
            Access::Pull(repository),
            &format!("{repository}/tags/list?n={PAGE}"),
            &format!("the tags of `{repository}`"),
            MAX_NAMES,
            |bytes| Ok(read::<Page>(bytes, "the list of tags")?.tags),
        )
    }

    /// Repositories whose names contain `term`, at most `limit`: from the registry's search where it has one,
    /// else out of the list of all its repositories.
    ///
    /// # Errors
    /// As [`Client::tags`]; `Unsupported` where the registry offers neither.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Found>> {
        if let Some(found) = self.v1_search(term, limit)? {
            return Ok(found);
        }
        #[derive(Deserialize)]
        struct Page {
            #[serde(default, deserialize_with = "crate::image::manifest::null_is_empty")]
            repositories: Vec<String>,
        }
        let names = self.pages(
            Access::Catalog,
            &format!("_catalog?n={PAGE}"),
            "list its repositories",
            MAX_NAMES,
            |bytes| {
                let names = read::<Page>(bytes, "the list of repositories")?.repositories;
                Ok(names
                    .into_iter()
                    .filter(|name| name.contains(term))
                    .collect())
            },
        )?;
        Ok(names
            .into_iter()
            .take(limit)
            .map(|name| Found {
                name,
                description: String::new(),
                star_count: 0,
                is_official: false,
            })
            .collect())
    }

    /// `None` where there is no such service.
    fn v1_search(&self, term: &str, limit: usize) -> Result<Option<Vec<Found>>> {
        #[derive(Deserialize)]
        struct Page {
            results: Vec<Found>,
        }
        let host = if self.registry == DOCKER_HUB {
            DOCKER_HUB_SEARCH
        } else {
            &self.host
        };
        let text = format!(
            "{}://{host}/v1/search?q={}&n={limit}",
            self.scheme()?,
            percent(term)
        );
        let uri: Uri = text
            .parse()
            .map_err(|_| Fail::usage(format!("`{}` is not an address", text.escape_debug())))?;
        let mut hurry = Hurry::new(self.patience);
        let answer = self
            .patiently(&uri, &Question::default(), &mut hurry)
            .with_context(|| format!("searching {}", self.registry))?;
        if answer.response.status() != StatusCode::OK {
            return Ok(None);
        }
        let host = host_of(&answer.uri);
        let bytes = read_all(
            answer.response.into_body(),
            MAX_DOCUMENT,
            &host,
            hurry.until,
        )
        .map_err(|error| Fail::network(error.to_string()))?;
        // A registry that answers everything with its web page has no search.
        let page: Option<Page> = serde_json::from_slice(&bytes).ok();
        Ok(page.map(|page| page.results.into_iter().take(limit).collect()))
    }

    /// Follows the registry's pages, which it links by `Link: <…>; rel="next"`.
    fn pages(
        &self,
        access: Access<'_>,
        path: &str,
        asked: &str,
        limit: usize,
        names: impl Fn(&[u8]) -> Result<Vec<String>>,
    ) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        let mut next: Option<Uri> = None;
        let mut seen = Vec::new();
        loop {
            let mut hurry = Hurry::new(self.patience);
            let question = Question::default();
            let answer = match &next {
                None => self.fetch(access, path, &question, &mut hurry),
                Some(uri) => self.fetch_at(access, uri, &question, &mut hurry),
            }
            .with_context(|| format!("asking {} for {asked}", self.registry))?;
            if answer.response.status() != StatusCode::OK {
                return Err(self.refusal(answer, access, asked, None).into());
            }
            let following = next_page(&answer);
            let host = host_of(&answer.uri);
            let own = host_of(&answer.uri);
            let bytes = read_all(
                answer.response.into_body(),
                MAX_DOCUMENT,
                &host,
                hurry.until,
            )
            .map_err(|error| Fail::network(error.to_string()))?;
            all.extend(names(&bytes)?);
            if all.len() > limit {
                return Err(
                    Fail::corrupt(format!("`{host}` lists more than {limit} names")).into(),
                );
            }
            match following {
                None => return Ok(all),
                // A pass must not go elsewhere, and a circle has no end.
                Some(uri)
                    if host_of(&uri) != own || seen.contains(&uri) || seen.len() > limit / PAGE =>
                {
                    return Err(Fail::corrupt(format!(
                        "`{host}` leads from page to page in a circle, or elsewhere"
                    ))
                    .into());
                }
                Some(uri) => {
                    seen.push(uri.clone());
                    next = Some(uri);
                }
            }
        }
    }

    /// Proves to the registry who we are, by the login given in the options.
    ///
    /// # Errors
    /// `Denied` when it does not know us, `Network`.
    pub fn check_login(&self) -> Result<()> {
        let mut hurry = Hurry::new(self.patience);
        let answer = self.fetch(Access::Login, "", &Question::default(), &mut hurry)?;
        let status = answer.response.status();
        match status.as_u16() {
            // 404: an old registry, or a proxy that shows only repositories; it let us in.
            200..=299 | 404 => Ok(()),
            401 | 403 => {
                let host = host_of(&answer.uri);
                let body = answer.response.into_body();
                let bytes = read_all(body, super::MAX_SMALL, &host, hurry.until);
                Err(Fail::denied(format!(
                    "{} refuses the login: {}",
                    self.registry,
                    told(status, &bytes.unwrap_or_default()) // the status says enough
                ))
                .hint("check user name and password")
                .code("RL-I03")
                .into())
            }
            _ => Err(self.refusal(answer, Access::Login, "log in", None).into()),
        }
    }
}

/// Source: RFC 8288.
fn next_page(answer: &Answer) -> Option<Uri> {
    let link = header(answer.response.headers(), "link")?;
    let link = link
        .split(',')
        .find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let (_, rest) = link.split_once('<')?;
    let (target, _) = rest.split_once('>')?;
    join(&answer.uri, target)
}
