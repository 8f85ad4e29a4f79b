//! Puts blobs and manifests into a registry: nothing that is there is sent again, and what breaks is taken
//! up where it broke.
//!
//! ```text
//! HEAD blobs/DIGEST                      200: it is there
//! POST blobs/uploads/?mount=…&from=…     201: taken from another repository of this registry
//! POST blobs/uploads/                    202, `Location`: where to send it
//! PATCH Location, the bytes              202, a new `Location`; after a break GET tells how far it came
//! PUT Location?digest=DIGEST             201
//! ```
//!
//! Source: OCI distribution specification, "Push".

use std::fs::File;

use anyhow::{Context as _, Result};
use ureq::http::{Method, StatusCode, Uri};

use super::access::Access;
use super::transport::{Answer, Content, Part, Question, host_of, join};
use super::{Client, Hurry, MAX_SMALL, header, read_all, retry_after};
use crate::error::{Fail, Kind, kind};
use crate::image::reference::{Digest, Reference};

/// How often a broken upload is taken up again.
const RESUMES: u32 = 5;
/// Bytes in one request to a registry, or a proxy before it, that takes no more at once.
const CHUNK: u64 = 16 << 20;

/// A blob that a registry is to have.
#[derive(Debug, Clone, Copy)]
pub struct Blob<'b> {
    /// Of its bytes, which the registry checks.
    pub digest: &'b Digest,
    /// Its bytes; without it, it can only be mounted.
    pub file: Option<&'b File>,
    /// Bytes.
    pub size: u64,
    /// A repository of the same registry that should have it.
    pub from: Option<&'b str>,
}

/// How a blob came to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Exists,
    /// Taken from this other repository.
    Mounted(String),
    /// Sent.
    Sent,
    /// Not at all: neither there nor given.
    Missing,
}

impl Client {
    /// Makes sure that `repository` has `blob`; `sent` hears of bytes that go out.
    ///
    /// # Errors
    /// [`crate::error::Kind`] `Denied`, `Network`.
    pub fn upload(
        &self,
        repository: &str,
        blob: &Blob<'_>,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<Uploaded> {
        if self.has_blob(repository, blob.digest)? {
            return Ok(Uploaded::Exists);
        }
        let mut place = None;
        if let Some(from) = blob.from.filter(|from| *from != repository) {
            match self.begin(repository, Some((blob.digest, from)))? {
                None => return Ok(Uploaded::Mounted(from.to_owned())),
                Some(begun) => place = Some(begun),
            }
        }
        let Some(file) = blob.file else {
            if let Some(place) = place {
                self.abandon(repository, &place);
            }
            return Ok(Uploaded::Missing);
        };
        let place = match place {
            Some(place) => place,
            None => match self.begin(repository, None)? {
                Some(place) => place,
                None => return Ok(Uploaded::Exists),
            },
        };
        self.send(repository, blob, file, place, sent)?;
        Ok(Uploaded::Sent)
    }

    /// Whether `repository` has the blob.
    ///
    /// # Errors
    /// As [`Client::upload`].
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let access = Access::Push(repository, None);
        let question = Question {
            method: Method::HEAD,
            ..Question::default()
        };
        let path = format!("{repository}/blobs/{digest}");
        let answer = self
            .fetch(access, &path, &question, &mut Hurry::new(self.patience))
            .with_context(|| format!("looking for blob {digest} of `{repository}`"))?;
        match answer.response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            // Some let nobody look who may not write; the upload will tell.
            StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(self
                .refusal(answer, access, &format!("push to `{repository}`"), None)
                .into()),
        }
    }

    /// Begins an upload, or mounts the blob from another repository; `None` when that is all.
    fn begin(&self, repository: &str, mount: Option<(&Digest, &str)>) -> Result<Option<Uri>> {
        let access = Access::Push(repository, mount.map(|(_, from)| from));
        let question = Question {
            method: Method::POST,
            content: Content::Bytes(b""),
            ..Question::default()
        };
        let plain = format!("{repository}/blobs/uploads/");
        let path = match mount {
            None => plain.clone(),
            // Repositories and digests have no character that would need to be encoded.
            Some((digest, from)) => format!("{plain}?mount={digest}&from={from}"),
        };
        let doing = || format!("pushing to `{repository}`");
        let mut hurry = Hurry::new(self.patience);
        let answer = self
            .fetch(access, &path, &question, &mut hurry)
            .with_context(doing);
        let answer = match (answer, mount) {
            (Ok(answer), _) if answer.response.status() == StatusCode::ACCEPTED => answer,
            (Ok(answer), Some(_)) if answer.response.status() == StatusCode::CREATED => {
                return Ok(None);
            }
            // Mounting saves work, and that is all: who may not read the other repository sends the bytes.
            (Ok(answer), Some(_)) if answer.response.status().is_client_error() => {
                return self.begin(repository, None);
            }
            (Err(error), Some(_)) if kind(&error) == Kind::Denied => {
                return self.begin(repository, None);
            }
            (Ok(answer), _) => {
                return Err(self
                    .refusal(answer, access, &format!("push to `{repository}`"), None)
                    .into());
            }
            (Err(error), _) => return Err(error),
        };
        self.location(&answer).map(Some)
    }

    /// Where an upload goes on.
    fn location(&self, answer: &Answer) -> Result<Uri> {
        let host = host_of(&answer.uri);
        let location = header(answer.response.headers(), "location")
            .and_then(|location| join(&answer.uri, &location));
        let Some(location) = location else {
            return Err(
                Fail::network(format!("`{host}` does not say where to send the blob")).into(),
            );
        };
        if location.scheme_str() != Some("https") && !self.transport.may_be_plain(&location) {
            return Err(Fail::network(format!(
                "`{host}` wants the blob by plain HTTP at `{}`",
                host_of(&location)
            ))
            .code("RL-I03")
            .into());
        }
        Ok(location)
    }

    /// The pass is for the registry alone, wherever its `Location` leads.
    fn fetch_upload(
        &self,
        repository: &str,
        place: &Uri,
        question: &Question<'_>,
        hurry: &mut Hurry,
    ) -> Result<Answer> {
        if place.authority().map(ureq::http::uri::Authority::as_str) == Some(&*self.host) {
            self.fetch_at(Access::Push(repository, None), place, question, hurry)
        } else {
            self.patiently(place, question, hurry).map_err(Into::into)
        }
    }

    fn send(
        &self,
        repository: &str,
        blob: &Blob<'_>,
        file: &File,
        mut place: Uri,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let access = Access::Push(repository, None);
        let asked = format!("push blob {} to `{repository}`", blob.digest);
        let doing = || format!("pushing blob {} to `{repository}`", blob.digest.short());
        let mut hurry = Hurry::new(self.patience);
        let mut resumes = RESUMES;
        let mut chunk = u64::MAX;
        let mut at = 0;
        while at < blob.size {
            let length = (blob.size - at).min(chunk);
            let mut question = Question {
                method: Method::PATCH,
                headers: vec![("content-type", "application/octet-stream".to_owned())],
                content: Content::Part(Part {
                    file,
                    offset: at,
                    length,
                    sent,
                }),
                ..Question::default()
            };
            // The whole in one piece is understood by every registry, ranges are not.
            if (at, length) != (0, blob.size) {
                let range = format!("{at}-{}", at + length - 1);
                question.headers.push(("content-range", range));
            }
            let outcome = self.fetch_upload(repository, &place, &question, &mut hurry);
            let pause = match outcome {
                Ok(answer) => {
                    let status = answer.response.status();
                    match status.as_u16() {
                        202 | 201 | 204 => {
                            place = self.location(&answer)?;
                            at += length;
                            continue;
                        }
                        413 if length > CHUNK => {
                            chunk = CHUNK;
                            None
                        }
                        416 | 429 | 500 | 502..=504 if resumes > 0 => {
                            retry_after(answer.response.headers())
                        }
                        _ => return Err(self.refusal(answer, access, &asked, None).into()),
                    }
                }
                Err(error) if kind(&error) == Kind::Network && resumes > 0 => None,
                Err(error) => return Err(error).with_context(doing),
            };
            resumes = resumes.saturating_sub(1);
            let mut rest = Hurry::new(self.patience);
            if !rest.wait(pause) {
                return Err(Fail::network(format!("{} is busy", self.registry)))
                    .with_context(doing);
            }
            hurry = rest;
            (place, at) = match self.progress_of(repository, &place, blob.size, &mut hurry) {
                Some(state) => state,
                None => match self.begin(repository, None).with_context(doing)? {
                    Some(place) => (place, 0),
                    None => return Ok(()),
                },
            };
        }
        self.commit(repository, blob, &place, &mut hurry)
            .with_context(doing)
    }

    /// How far an upload came, and where it goes on; `None` when it must begin anew.
    fn progress_of(
        &self,
        repository: &str,
        place: &Uri,
        size: u64,
        hurry: &mut Hurry,
    ) -> Option<(Uri, u64)> {
        let answer = self
            .fetch_upload(repository, place, &Question::default(), hurry)
            .ok()?; // whatever it is, beginning anew is the way out, and tells if it is none
        if answer.response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let range = header(answer.response.headers(), "range")?;
        let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
        let last: u64 = last.trim().parse().ok()?;
        let next = self.location(&answer).ok()?;
        // An upload of nothing says 0-0, as one of a single byte does.
        let at = if last == 0 { 0 } else { last + 1 };
        (at > 0 && at <= size).then_some((next, at))
    }

    fn commit(
        &self,
        repository: &str,
        blob: &Blob<'_>,
        place: &Uri,
        hurry: &mut Hurry,
    ) -> Result<()> {
        let text = place.to_string();
        let mark = if text.contains('?') { '&' } else { '?' };
        let digest = blob.digest.to_string().replace(':', "%3A");
        let uri: Uri = format!("{text}{mark}digest={digest}")
            .parse()
            .map_err(|_| Fail::network(format!("`{}` names no address", self.registry)))?;
        let question = Question {
            method: Method::PUT,
            content: Content::Bytes(b""),
            ..Question::default()
        };
        let answer = self.fetch_upload(repository, &uri, &question, hurry)?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            // The first answer was lost, and its repetition finds no such upload any more.
            StatusCode::NOT_FOUND if self.has_blob(repository, blob.digest)? => Ok(()),
            _ => {
                let asked = format!("push blob {} to `{repository}`", blob.digest);
                let access = Access::Push(repository, None);
                Err(self.refusal(answer, access, &asked, None).into())
            }
        }
    }

    fn abandon(&self, repository: &str, place: &Uri) {
        let question = Question {
            method: Method::DELETE,
            ..Question::default()
        };
        // Registries forget uploads that nobody goes on with.
        let _ = self.fetch_upload(repository, place, &question, &mut Hurry::new(self.patience));
    }

    /// Puts a manifest or an index under the tag of `name`, or under its digest alone; returns that.
    ///
    /// # Errors
    /// `Denied`, `Network`; `Corrupt` when the registry calls it by another digest.
    pub fn put_manifest(&self, name: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        let repository = &name.repository;
        let access = Access::Push(repository, None);
        let under = match &name.tag {
            Some(tag) => tag.clone(),
            None => digest.to_string(),
        };
        let question = Question {
            method: Method::PUT,
            headers: vec![("content-type", media_type.to_owned())],
            content: Content::Bytes(bytes),
            ..Question::default()
        };
        let path = format!("{repository}/manifests/{under}");
        let mut hurry = Hurry::new(self.patience);
        let answer = self
            .fetch(access, &path, &question, &mut hurry)
            .with_context(|| format!("pushing the manifest of `{}`", name.familiar()))?;
        if !answer.response.status().is_success() {
            let asked = format!("push the manifest of `{}`", name.familiar());
            let refused = matches!(answer.response.status().as_u16(), 400 | 415);
            let fail = self.refusal(answer, access, &asked, None);
            return Err(if refused {
                fail.hint("an old registry may know docker's format only: --format v2s2")
            } else {
                fail
            }
            .into());
        }
        let told = header(answer.response.headers(), "docker-content-digest")
            .and_then(|text| Digest::parse(&text).ok()); // it need not say
        if let Some(told) = told.filter(|told| *told != digest) {
            return Err(Fail::corrupt(format!(
                "`{}` stored something else than what was pushed: its digest is {told}, not {digest}",
                host_of(&answer.uri)
            ))
            .into());
        }
        // What is left of the answer is read, so that the connection can be used again.
        let host = host_of(&answer.uri);
        let _ = read_all(answer.response.into_body(), MAX_SMALL, &host, hurry.until);
        Ok(digest)
    }
}
