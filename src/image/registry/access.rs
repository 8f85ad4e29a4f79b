//! What we want of a registry, and how we come by the pass that allows it: logins, and tokens that are bought with them.
//!
//! Source: docker's token authentication specification.

use anyhow::{Context as _, Result};
use ureq::http::{Method, Uri};

use super::body::read_all;
use super::token::{self, Challenge, Pass};
use super::transport::{self, Content, Question};
use super::trouble::told;
use super::{Client, Hurry, MAX_SMALL, Shown, lock};
use crate::error::Fail;
use crate::image::auth;

/// What we want to do, and so what a pass must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// Prove who we are.
    Login,
    /// List repositories.
    Catalog,
    /// Read this repository.
    Pull(&'a str),
    /// Write to the first repository, and read the second.
    Push(&'a str, Option<&'a str>),
}

impl<'a> Access<'a> {
    /// Source: docker's token authentication specification, "Token scope".
    pub(super) fn scope(self) -> String {
        match self {
            Access::Login => String::new(),
            Access::Catalog => "registry:catalog:*".to_owned(),
            Access::Pull(repository) => format!("repository:{repository}:pull"),
            Access::Push(to, None) => format!("repository:{to}:pull,push"),
            Access::Push(to, Some(from)) => {
                format!("repository:{to}:pull,push repository:{from}:pull")
            }
        }
    }

    /// Empty where none is meant.
    pub(super) fn repository(self) -> &'a str {
        match self {
            Access::Login | Access::Catalog => "",
            Access::Pull(repository) | Access::Push(repository, _) => repository,
        }
    }
}

/// Where tokens are to be had, in a registry's words.
struct Offer<'a> {
    realm: &'a str,
    service: Option<&'a str>,
    scope: &'a str,
}

impl Client {
    /// Gets a pass that is not the `refused` one. `None`: there is no login to answer the challenge with.
    pub(super) fn authorize(
        &self,
        access: Access<'_>,
        challenge: &Challenge,
        refused: Option<&str>,
        hurry: &mut Hurry,
    ) -> Result<Option<String>> {
        let own = access.scope();
        let mut passes = lock(&self.passes);
        // Another thread may have got one meanwhile.
        if let Some(shown) = passes.get(&own)
            && shown.pass.is_fresh()
            && refused != Some(&shown.pass.header)
        {
            return Ok(Some(shown.pass.header.clone()));
        }
        let credentials = self.credentials(access.repository())?;
        let shown = match challenge {
            Challenge::Basic => match &credentials {
                Some(auth::Credentials {
                    login: auth::Login::Password { user, password },
                    source,
                }) => Some(Shown {
                    pass: Pass {
                        header: token::basic(user, password),
                        until: None,
                    },
                    source: Some(source.clone()),
                }),
                Some(auth::Credentials {
                    login: auth::Login::IdentityToken(_),
                    ..
                })
                | None => None,
            },
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let offer = Offer {
                    realm,
                    service: service.as_deref(),
                    scope: scope.as_deref().unwrap_or(&own),
                };
                Some(self.buy(&offer, credentials.as_ref(), hurry)?)
            }
        };
        let Some(shown) = shown.filter(|shown| refused != Some(&shown.pass.header)) else {
            return Ok(None);
        };
        let header = shown.pass.header.clone();
        passes.insert(own, shown);
        Ok(Some(header))
    }

    fn credentials(&self, repository: &str) -> Result<Option<auth::Credentials>> {
        if let Some(login) = &self.login {
            return Ok(Some(auth::Credentials {
                login: login.clone(),
                source: "the command line".to_owned(),
            }));
        }
        match auth::find_in(&self.helpers, &self.auth_files, &self.registry, repository)? {
            auth::Found::Login(credentials) => Ok(Some(credentials)),
            auth::Found::Nothing => Ok(None),
            auth::Found::OutOfReach(why) => {
                self.note(format!(
                    "continuing without a login for {}: {why}",
                    self.registry
                ));
                Ok(None)
            }
        }
    }

    /// A token, by the login; when that is refused, for nobody in particular: old logins lie about.
    fn buy(
        &self,
        offer: &Offer<'_>,
        credentials: Option<&auth::Credentials>,
        hurry: &mut Hurry,
    ) -> Result<Shown> {
        if let Some(credentials) = credentials {
            match self.token(offer, Some(&credentials.login), hurry)? {
                Ok(pass) => {
                    return Ok(Shown {
                        pass,
                        source: Some(credentials.source.clone()),
                    });
                }
                // Given for this very command: doing without it would be another command.
                Err(refusal) if self.login.is_some() => {
                    return Err(Fail::denied(format!(
                        "{} refuses the login: {refusal}",
                        self.registry
                    ))
                    .hint("check user name and password")
                    .code("RL-I03")
                    .into());
                }
                Err(refusal) => self.note(format!(
                    "{} refuses the login from {} ({refusal}); continuing without",
                    self.registry, credentials.source
                )),
            }
        }
        match self.token(offer, None, hurry)? {
            Ok(pass) => Ok(Shown { pass, source: None }),
            Err(refusal) => {
                let fail = Fail::denied(format!("{} wants a login: {refusal}", self.registry));
                Err(self
                    .login_hints(fail, credentials.map(|found| &*found.source))
                    .into())
            }
        }
    }

    /// The inner error is the server's refusal, in words.
    fn token(
        &self,
        offer: &Offer<'_>,
        login: Option<&auth::Login>,
        hurry: &mut Hurry,
    ) -> Result<Result<Pass, String>> {
        let request = token::request(offer.realm, offer.service, offer.scope, login);
        let uri = request
            .address
            .parse::<Uri>()
            .ok()
            .filter(|uri| uri.host().is_some());
        let Some(uri) = uri else {
            return Err(Fail::corrupt(format!(
                "`{}` names a token server that is no address: `{}`",
                self.host,
                offer.realm.escape_debug()
            ))
            .into());
        };
        let host = transport::host_of(&uri);
        if uri.scheme_str() != Some("https") && !self.transport.may_be_plain(&uri) {
            return Err(Fail::network(format!(
                "`{}` names a token server without TLS: `{host}`",
                self.host
            ))
            .code("RL-I03")
            .into());
        }
        let question = Question {
            authorization: request.authorization,
            method: match &request.form {
                None => Method::GET,
                Some(_) => Method::POST,
            },
            content: request.form.map_or(Content::None, Content::Form),
            ..Question::default()
        };
        let answer = self
            .patiently(&uri, &question, hurry)
            .with_context(|| format!("getting a token from `{host}`"))?;
        let status = answer.response.status();
        let body = answer.response.into_body();
        let bytes = read_all(body, MAX_SMALL, &host, hurry.until);
        match status.as_u16() {
            200..=299 => {
                let bytes = bytes
                    .map_err(|error| Fail::network(error.to_string()))
                    .with_context(|| format!("getting a token from `{host}`"))?;
                let pass = token::read_answer(&bytes)
                    .with_context(|| format!("getting a token from `{host}`"))?;
                Ok(Ok(pass))
            }
            400 | 401 | 403 => Ok(Err(told(status, &bytes.unwrap_or_default()))),
            _ => Err(Fail::network(format!(
                "the token server `{host}` answers {}",
                told(status, &bytes.unwrap_or_default())
            ))
            .code("RL-I03")
            .into()),
        }
    }

    pub(super) fn login_hints(&self, fail: Fail, source: Option<&str>) -> Fail {
        let registry = &self.registry;
        let fail = match source {
            Some(source) => fail.hint(format!("the login from {source} is refused: renew it")),
            None => fail,
        };
        let fail = lock(&self.notes)
            .iter()
            .fold(fail, |fail, note| fail.hint(note.clone()));
        fail.hint(format!(
            "log in with `rl login {registry}`; logins of podman and docker count, too"
        ))
        .code("RL-I03")
    }
}
