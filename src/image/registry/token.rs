//! What a registry wants to be shown: challenges in `WWW-Authenticate`, and tokens. Text only, no requests.
//!
//! Sources: RFC 9110, section 11; docker's token authentication specification (`distribution`, spec/auth).

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;

use crate::error::Fail;
use crate::image::auth::Login;

/// How a registry wants us to say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password in every request.
    Basic,
    /// A token from another server.
    Bearer {
        /// That server's address.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best one of all `WWW-Authenticate` header fields; tokens rather than passwords.
    #[must_use]
    pub fn best<'h>(fields: impl Iterator<Item = &'h str>) -> Option<Self> {
        let mut basic = None;
        for (scheme, parameters) in fields.flat_map(split) {
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
                    .filter(|value| !value.is_empty())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Challenge::Bearer {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                });
            }
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// `Bearer a="b, c", d=e, Basic realm=x` → the schemes with their parameters.
fn split(field: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = field;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return challenges;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            challenges.push((word.to_owned(), Vec::new()));
            rest = after;
            continue;
        };
        let (value, after) = take_value(value.trim_start());
        if let Some((_, parameters)) = challenges.last_mut() {
            parameters.push((word.to_owned(), value));
        }
        rest = after;
    }
}

fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((position, char)) = chars.next() {
        match char {
            '"' => return (value, &quoted[position + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// `Basic …`
#[must_use]
pub fn basic(user: &str, password: &str) -> String {
    let both = format!("{user}:{password}");
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(both))
}

/// The `Authorization` for one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// The whole header field.
    pub header: String,
    /// Not good after.
    pub until: Option<Instant>,
}

impl Pass {
    /// Whether it is still worth showing.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

/// What to send to the token server.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The address, with the question for a GET.
    pub address: String,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// The form of a POST.
    pub form: Option<String>,
}

/// The request that buys a token for `scope`: several with spaces between them, or empty.
#[must_use]
pub fn request(
    realm: &str,
    service: Option<&str>,
    scope: &str,
    login: Option<&Login>,
) -> TokenRequest {
    let mut fields: Vec<(&str, &str)> = Vec::new();
    fields.extend(service.map(|service| ("service", service)));
    match login {
        Some(Login::IdentityToken(token)) => {
            // OAuth2 has them in one field (RFC 6749, section 3.3), docker's GET each in its own.
            fields.extend((!scope.is_empty()).then_some(("scope", scope)));
            fields.push(("grant_type", "refresh_token"));
            fields.push(("client_id", "rl"));
            fields.push(("refresh_token", token));
            TokenRequest {
                address: realm.to_owned(),
                authorization: None,
                form: Some(encode(&fields)),
            }
        }
        Some(Login::Password { user, password }) => {
            fields.extend(scope.split_whitespace().map(|scope| ("scope", scope)));
            fields.push(("account", user));
            TokenRequest {
                address: with_query(realm, &fields),
                authorization: Some(basic(user, password)),
                form: None,
            }
        }
        None => {
            fields.extend(scope.split_whitespace().map(|scope| ("scope", scope)));
            TokenRequest {
                address: with_query(realm, &fields),
                authorization: None,
                form: None,
            }
        }
    }
}

fn with_query(realm: &str, fields: &[(&str, &str)]) -> String {
    let mark = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{mark}{}", encode(fields))
}

fn encode(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", percent(value)))
        .collect();
    pairs.join("&")
}

/// For the question part of an address. Source: RFC 3986, section 2.1.
#[must_use]
pub fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Reads the token server's answer.
///
/// # Errors
/// [`crate::error::Kind::Corrupt`] when there is no usable token in it.
pub fn read_answer(bytes: &[u8]) -> Result<Pass, Fail> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<f64>,
    }
    let answer: Answer = serde_json::from_slice(bytes)
        .map_err(|error| Fail::corrupt(format!("the token cannot be read: {error}")))?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| Fail::corrupt("there is no token in the answer"))?;
    // The specification's default is 60 s. A little less, for it is used a little later.
    let seconds = answer.expires_in.unwrap_or(60.0).clamp(10.0, 86_400.0) - 5.0;
    Ok(Pass {
        header: format!("Bearer {token}"),
        until: Some(Instant::now() + Duration::from_secs_f64(seconds)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn challenges_are_read_as_servers_write_them() {
        for (fields, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.x/token",service="x",scope="repository:a/b:pull,push""#,
                ],
                bearer(
                    "https://auth.x/token",
                    Some("x"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            (
                vec!["bearer Realm=https://a, service=\"\""],
                bearer("https://a", None, None),
            ),
            (vec!["Basic realm=\"x, y=z\""], Some(Challenge::Basic)),
            (
                vec!["Basic realm=x, Bearer realm=\"https://a\""],
                bearer("https://a", None, None),
            ),
            (
                vec!["Basic", "Bearer realm=\"https://a\\\"b\""],
                bearer("https://a\"b", None, None),
            ),
            (vec!["Negotiate", "Bearer"], None),
            (vec![], None),
        ] {
            assert_eq!(
                Challenge::best(fields.iter().copied()),
                expected,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn a_token_is_asked_for_as_the_login_allows() {
        let ask = |login| request("https://a/t?x=1", Some("s t"), "repository:a/b:pull", login);
        let anonymous = ask(None);
        assert_eq!(
            anonymous.address,
            "https://a/t?x=1&service=s%20t&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(anonymous.authorization, None);
        let login = Login::Password {
            user: "me".to_owned(),
            password: "secret".to_owned(),
        };
        let known = ask(Some(&login));
        assert_eq!(known.authorization.as_deref(), Some("Basic bWU6c2VjcmV0"));
        assert!(!known.address.contains("secret"));
        let token = ask(Some(&Login::IdentityToken("r&t".to_owned())));
        assert_eq!(token.address, "https://a/t?x=1");
        assert!(token.form.unwrap().contains("refresh_token=r%26t"));
    }

    #[test]
    fn the_answer_of_a_token_server_is_read() {
        let pass = read_answer(br#"{"token":"","access_token":"t","expires_in":300}"#).unwrap();
        assert_eq!(pass.header, "Bearer t");
        assert!(pass.is_fresh());
        for bad in ["", "{}", r#"{"token":"a\r\nb: c"}"#, r#"{"token":1}"#] {
            assert!(read_answer(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read_answer(br#"{"token":"t","expires_in":-1e99}"#).is_ok());
    }

    proptest! {
        #[test]
        fn no_header_field_makes_it_panic(field in r#"[A-Za-z ="\\,é]{0,40}"#) {
            let _ = Challenge::best(std::iter::once(field.as_str()));
        }
    }
}
