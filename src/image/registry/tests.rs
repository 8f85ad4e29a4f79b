//! The client against a small server of its own, on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::*;
use crate::error::{Kind, find};
use crate::image::manifest::OCI_MANIFEST;

/// What a client asked.
#[derive(Debug, Clone)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }
}

/// Serves plain HTTP until the process ends; remembers what it was asked.
#[derive(Clone)]
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
        };
        let (seen, answer) = (server.seen.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        server
    }

    fn asked(&self, part: &str) -> Vec<Request> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|request| request.line.contains(part))
            .cloned()
            .collect()
    }

    fn client(&self) -> Client {
        client(&self.address, Vec::new())
    }
}

/// Returns on any trouble: the client is the one that is tested.
fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Vec<u8>) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    // As Go's server answers to TLS.
    if reader
        .fill_buf()
        .is_ok_and(|bytes| bytes.first() == Some(&0x16))
    {
        let _ = writer.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent TLS");
        return;
    }
    let mut line = String::new();
    let mut request: Option<Request> = None;
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        let text = line.trim_end().to_owned();
        line.clear();
        match &mut request {
            None => {
                request = Some(Request {
                    line: text,
                    headers: Vec::new(),
                    body: String::new(),
                });
            }
            Some(request) if !text.is_empty() => {
                let (name, value) = text.split_once(':').unwrap();
                let header = (name.to_ascii_lowercase(), value.trim().to_owned());
                request.headers.push(header);
            }
            Some(whole) => {
                let length = whole.header("content-length").unwrap_or("0");
                let mut body = vec![0; length.parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                whole.body = String::from_utf8(body).unwrap();
                seen.lock().unwrap().push(whole.clone());
                let _ = writer.write_all(&answer(whole));
                return;
            }
        }
    }
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

fn client(registry: &str, auth_files: Vec<PathBuf>) -> Client {
    Client::new(registry, options(auth_files)).unwrap()
}

fn options(auth_files: Vec<PathBuf>) -> ClientOptions {
    ClientOptions {
        insecure: Vec::new(),
        auth_files,
        helpers: Vec::new(),
        cert_dir: None,
        login: None,
        proxies: Proxies::default(),
        patience: Patience {
            attempts: 3,
            first_pause: Duration::from_millis(1),
            total: Duration::from_secs(20),
            idle: Duration::from_millis(300),
        },
        registries: Registries::default(),
        parallel: 3,
    }
}

fn fail<T: std::fmt::Debug>(result: Result<T>) -> Fail {
    let error = result.expect_err("it must fail");
    find(&error).expect("a Fail").clone()
}

fn blob(size: u64) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(b"x"),
        size,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: std::collections::BTreeMap::new(),
    }
}

fn all(mut stream: BlobStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.body.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A registry that wants a token, and the server of that token in one.
fn with_tokens(accepts: &'static str) -> Server {
    Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.line.starts_with("GET /token?") || request.line.starts_with("POST /token ") {
            let refused = authorization.is_some_and(|given| given != accepts);
            return if refused {
                reply(
                    "401 Unauthorized",
                    "",
                    br#"{"details":"incorrect username or password"}"#,
                )
            } else {
                reply("200 OK", "", br#"{"token":"T","expires_in":300}"#)
            };
        }
        if authorization == Some("Bearer T") {
            return reply(
                "200 OK",
                &format!("Content-Type: {OCI_MANIFEST}\r\n"),
                b"{}",
            );
        }
        let host = request.header("host").unwrap();
        reply(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n"),
            b"",
        )
    })
}

fn auth_file(registry: &str, entry: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.json");
    std::fs::write(
        &path,
        format!("{{\"auths\": {{\n\"{registry}\": {entry}}}}}"),
    )
    .unwrap();
    (dir, vec![path])
}

/// `me:secret`
const LOGIN: &str = r#"{"auth": "bWU6c2VjcmV0"}"#;

#[test]
fn a_token_is_bought_once_and_shared_by_all_threads() {
    let server = with_tokens("Basic bWU6c2VjcmV0");
    let (_dir, files) = auth_file(&server.address, LOGIN);
    let client = client(&server.address, files);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| client.manifest("a/b", Wanted::Tag("1")).unwrap());
        }
    });
    let tokens = server.asked("/token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert!(tokens[0].line.contains("scope=repository%3Aa%2Fb%3Apull"));
    assert!(tokens[0].line.contains("account=me"));
    assert_eq!(client.take_notes(), Vec::<String>::new());
    let fetched = client.manifest("a/b", Wanted::Tag("1")).unwrap();
    assert_eq!(fetched.digest, Digest::of(b"{}"));
    assert_eq!(fetched.media_type.as_deref(), Some(OCI_MANIFEST));
}

#[test]
fn a_token_that_was_withdrawn_is_replaced() {
    let sold = Mutex::new(0);
    let good = Arc::new(Mutex::new(1));
    let now_good = good.clone();
    let server = Server::start(move |request| {
        if request.line.contains("/token") {
            let mut sold = sold.lock().unwrap();
            *sold += 1;
            return reply("200 OK", "", format!("{{\"token\":\"{sold}\"}}").as_bytes());
        }
        let wanted = format!("Bearer {}", now_good.lock().unwrap());
        if request.header("authorization") == Some(&wanted) {
            return reply("200 OK", "", b"{}");
        }
        let host = request.header("host").unwrap();
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n");
        reply("401 Unauthorized", &challenge, b"")
    });
    let client = server.client();
    assert!(client.manifest("a", Wanted::Tag("1")).is_ok());
    *good.lock().unwrap() = 2;
    assert!(client.manifest("a", Wanted::Tag("1")).is_ok());
    *good.lock().unwrap() = 9;
    let refused = fail(client.manifest("a", Wanted::Tag("1")));
    assert_eq!(refused.kind, Kind::Denied);
}

#[test]
fn an_identity_token_goes_into_the_body_of_a_post() {
    let server = with_tokens("nothing");
    let (_dir, files) = auth_file(&server.address, r#"{"identitytoken": "I"}"#);
    client(&server.address, files)
        .manifest("a/b", Wanted::Tag("1"))
        .unwrap();
    let tokens = server.asked("POST /token ");
    assert!(tokens[0].body.contains("refresh_token=I"), "{tokens:?}");
}

#[test]
fn a_login_that_is_refused_is_told_and_done_without() {
    let server = with_tokens("nothing");
    let (_dir, files) = auth_file(&server.address, LOGIN);
    let client = client(&server.address, files);
    client.manifest("a/b", Wanted::Tag("1")).unwrap();
    let notes = client.take_notes().concat();
    assert!(
        notes.contains("auth.json, line 2") && notes.contains("incorrect"),
        "{notes}"
    );
    assert!(!notes.contains("secret"));
}

#[test]
fn basic_authentication_is_tried_once() {
    let server = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => reply("200 OK", "", b"{}"),
        _ => reply(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n",
            b"",
        ),
    });
    let (_dir, files) = auth_file(&server.address, LOGIN);
    let known = client(&server.address, files);
    assert!(known.manifest("a", Wanted::Tag("1")).is_ok());

    let anonymous = fail(server.client().manifest("a", Wanted::Tag("1")));
    assert_eq!(anonymous.kind, Kind::Denied);
    assert!(
        anonymous.hints.concat().contains("rl login"),
        "{anonymous:?}"
    );

    let (_dir, files) = auth_file(&server.address, r#"{"auth": "bWU6d3Jvbmc="}"#);
    let wrong = fail(client(&server.address, files).manifest("a", Wanted::Tag("1")));
    assert_eq!(wrong.kind, Kind::Denied);
    assert!(
        wrong.hints.concat().contains("auth.json, line 2"),
        "{wrong:?}"
    );
}

#[test]
fn a_redirect_to_another_server_loses_the_pass() {
    let storage = Server::start(|_| reply("200 OK", "", b"0123456789"));
    let there = storage.address.clone();
    let server = Server::start(move |request| match request.header("authorization") {
        Some(_) if request.line.contains("/start") => reply(
            "307 Temporary Redirect",
            &format!("Location: http://{there}/data\r\n"),
            b"",
        ),
        Some(_) => reply("302 Found", "Location: /start\r\n", b""),
        None => reply(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=x\r\n",
            b"",
        ),
    });
    let (_dir, files) = auth_file(&server.address, LOGIN);
    let stream = client(&server.address, files)
        .blob("a", &blob(10), 0)
        .unwrap();
    assert_eq!(all(stream).unwrap(), b"0123456789");
    // To the same server it is shown again, to the other one never.
    assert!(server.asked("/start")[0].header("authorization").is_some());
    let asked = storage.asked("/data");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn redirects_lead_neither_to_plain_http_nor_round_in_circles() {
    let server = Server::start(|request| {
        let location = if request.line.contains("/out/") {
            "http://192.0.2.1/"
        } else {
            "/again"
        };
        reply("302 Found", &format!("Location: {location}\r\n"), b"")
    });
    let out = fail(server.client().blob("out", &blob(1), 0));
    assert!(out.message.contains("plain HTTP at `192.0.2.1`"), "{out}");
    let circle = fail(server.client().blob("circle", &blob(1), 0));
    assert!(circle.message.contains("more than 5"), "{circle}");
}

#[test]
fn a_token_server_without_tls_gets_no_login() {
    let server = Server::start(|_| {
        let challenge = "WWW-Authenticate: Bearer realm=\"http://192.0.2.1/t\"\r\n";
        reply("401 Unauthorized", challenge, b"")
    });
    let fail = fail(server.client().manifest("a", Wanted::Tag("1")));
    assert!(fail.message.contains("without TLS"), "{fail}");
}

#[test]
fn a_busy_registry_is_asked_again() {
    for status in [
        "429 Too Many Requests",
        "503 Service Unavailable",
        "500 Oops",
    ] {
        let busy = Mutex::new(2);
        let server = Server::start(move |_| {
            let mut busy = busy.lock().unwrap();
            if *busy == 0 {
                return reply("200 OK", "", b"{}");
            }
            *busy -= 1;
            reply(status, "Retry-After: 0\r\n", b"")
        });
        assert!(
            server.client().manifest("a", Wanted::Tag("1")).is_ok(),
            "{status}"
        );
    }
}

#[test]
fn a_registry_that_stays_busy_is_left_with_its_own_words() {
    let server = Server::start(|request| {
        if request.line.contains("/limit/") {
            let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your limit."}]}"#;
            return reply("429 Too Many Requests", "Retry-After: 9999\r\n", body);
        }
        reply("502 Bad Gateway", "", b"<html>")
    });
    let limit = fail(server.client().manifest("limit", Wanted::Tag("1")));
    assert_eq!(limit.kind, Kind::Network);
    assert!(
        limit.message.contains("You have reached your limit"),
        "{limit}"
    );
    assert!(limit.hints.concat().contains("9999 s"), "{limit:?}");
    assert_eq!(server.asked("/limit/").len(), 1);
    let gateway = fail(server.client().manifest("gateway", Wanted::Tag("1")));
    assert!(gateway.message.contains("502 Bad Gateway"), "{gateway}");
    assert_eq!(server.asked("/gateway/").len(), 3);
}

#[test]
fn what_is_not_there_is_named() {
    let server = Server::start(|request| {
        let code = if request.line.contains("/nowhere/") {
            "NAME_UNKNOWN"
        } else {
            "MANIFEST_UNKNOWN"
        };
        let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        reply("404 Not Found", "", body.as_bytes())
    });
    for (repository, say) in [
        ("nowhere", "image `nowhere`"),
        ("here", "tag `1` of `here`"),
    ] {
        let fail = fail(server.client().manifest(repository, Wanted::Tag("1")));
        assert_eq!(fail.kind, Kind::NotFound);
        assert!(fail.message.contains(say), "{fail}");
    }
    let missing = fail(server.client().blob("here", &blob(1), 0));
    assert_eq!(missing.kind, Kind::NotFound);
    assert!(missing.message.contains("blob sha256:"), "{missing}");
}

#[test]
fn a_manifest_is_never_read_beyond_its_limit() {
    let server = Server::start(|request| {
        let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n".to_vec();
        if request.line.contains("/claims/") {
            bytes.extend(b"Content-Length: 99999999999\r\n\r\n");
        } else {
            bytes.extend(b"\r\n");
            bytes.resize(6 << 20, b' ');
        }
        bytes
    });
    for repository in ["claims", "sends"] {
        let fail = fail(server.client().manifest(repository, Wanted::Tag("1")));
        assert!(
            fail.message.contains("more than 4194304"),
            "{repository}: {fail}"
        );
    }
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let server = Server::start(|_| reply("200 OK", "", b"{}"));
    let (right, wrong) = (Digest::of(b"{}"), Digest::of(b"x"));
    assert!(
        server
            .client()
            .manifest("a", Wanted::Digest(&right))
            .is_ok()
    );
    let fail = fail(server.client().manifest("a", Wanted::Digest(&wrong)));
    assert_eq!(fail.kind, Kind::Corrupt);
    assert!(fail.message.contains(right.hex()), "{fail}");
}

#[test]
fn a_blob_is_resumed_or_begun_anew() {
    let server = Server::start(|request| {
        let range = request.header("range");
        if request.line.contains("/resumes/") {
            assert_eq!(range, Some("bytes=4-"));
            let head = "Content-Range: bytes 4-9/10\r\n";
            return reply("206 Partial Content", head, b"456789");
        }
        if request.line.contains("/lies/") {
            let head = "Content-Range: bytes 3-9/10\r\n";
            return reply("206 Partial Content", head, b"3456789");
        }
        reply("200 OK", "", b"0123456789")
    });
    let client = server.client();
    let resumed = client.blob("resumes", &blob(10), 4).unwrap();
    assert_eq!(resumed.offset, 4);
    assert_eq!(all(resumed).unwrap(), b"456789");
    let anew = client.blob("forgets", &blob(10), 4).unwrap();
    assert_eq!(anew.offset, 0);
    assert_eq!(all(anew).unwrap(), b"0123456789");
    assert_eq!(fail(client.blob("lies", &blob(10), 4)).kind, Kind::Corrupt);
    assert_eq!(fail(client.blob("short", &blob(11), 0)).kind, Kind::Corrupt);
}

#[test]
fn a_blob_has_exactly_its_size_or_is_an_error() {
    let server = Server::start(|request| {
        let head = if request.line.contains("/cut/") {
            "Content-Length: 10\r\n"
        } else {
            ""
        };
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{head}\r\n01234").into_bytes()
    });
    for (repository, size, resumable) in [("cut", 10, true), ("open", 10, true), ("open", 4, false)]
    {
        let stream = server.client().blob(repository, &blob(size), 0).unwrap();
        let error = all(stream).expect_err(repository);
        assert_eq!(
            is_resumable(&error),
            resumable,
            "{repository} {size}: {error}"
        );
    }
    let stream = server.client().blob("open", &blob(5), 0).unwrap();
    assert_eq!(all(stream).unwrap(), b"01234");
}

/// A byte now and then keeps nobody waiting for ever.
#[test]
fn a_server_that_drips_is_as_good_as_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                let mut sent = stream.write_all(head);
                while sent.is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                    sent = stream.write_all(b".");
                }
            });
        }
    });
    let client = client(&address, Vec::new());
    *lock(&client.scheme) = Some("http");
    let error = all(client.blob("r", &blob(1_000_000), 0).unwrap()).expect_err("it drips");
    assert!(is_resumable(&error), "{error}");
    assert!(error.to_string().contains("next to nothing"), "{error}");
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let broken = Mutex::new(2);
    let server = Server::start(move |request| {
        let mut broken = broken.lock().unwrap();
        if *broken == 0 {
            return reply("200 OK", "", b"{}");
        }
        *broken -= 1;
        if *broken == 0 {
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{".to_vec();
        }
        assert!(request.line.contains("/v2/a/manifests/1"));
        Vec::new()
    });
    let fetched = server.client().manifest("a", Wanted::Tag("1")).unwrap();
    assert_eq!(fetched.bytes, b"{}");
}

#[test]
fn nobody_at_the_port_is_told_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let fail = fail(client(&address, Vec::new()).manifest("a", Wanted::Tag("1")));
    assert_eq!(fail.kind, Kind::Network);
    assert!(fail.message.contains("refuses the connection"), "{fail}");
}

#[test]
fn plain_http_from_a_registry_that_must_have_tls_is_told() {
    // A name that is this machine, but not by its name.
    let server = Server::start(|_| reply("200 OK", "", b"{}"));
    let transport = Transport::new("registry.example", false, Proxies::default(), None);
    let uri: Uri = format!("https://{}/v2/", server.address).parse().unwrap();
    assert!(!transport.speaks_tls(&uri).unwrap());
    let plain: Uri = format!("http://{}/v2/", server.address).parse().unwrap();
    assert!(!transport.may_be_plain(&plain));
}

#[test]
fn a_client_is_shared_and_its_streams_are_sent() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Client>();
    sent::<BlobBody>();
}

/// A registry that takes uploads; `answer` may say something else first.
fn taker(answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
    Server::start(move |request| {
        if let Some(own) = answer(request) {
            return own;
        }
        let method = request.line.split(' ').next().unwrap();
        match method {
            "HEAD" => reply("404 Not Found", "", b""),
            "POST" => reply("202 Accepted", "Location: /upload/1?_state=a\r\n", b""),
            "PATCH" => reply("202 Accepted", "Location: /upload/1?_state=b\r\n", b""),
            "PUT" => reply("201 Created", "", b""),
            _ => reply("404 Not Found", "", b""),
        }
    })
}

fn upload(server: &Server, bytes: &[u8], from: Option<&str>) -> Result<Uploaded> {
    use std::os::unix::fs::FileExt as _;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let blob = Blob {
        digest: &Digest::of(bytes),
        file: Some(&file),
        size: bytes.len() as u64,
        from,
    };
    server.client().upload("a/b", &blob, &|_| ())
}

#[test]
fn a_blob_is_sent_whole_and_named_by_its_digest() {
    let server = taker(|_| None);
    assert_eq!(
        upload(&server, b"0123456789", None).unwrap(),
        Uploaded::Sent
    );
    let sent = server.asked("PATCH /upload/1?_state=a ");
    assert_eq!(sent[0].body, "0123456789");
    assert_eq!(sent[0].header("content-range"), None);
    let commit = &server.asked("PUT /upload/1?_state=b&digest=sha256%3A")[0];
    assert_eq!(commit.header("content-length"), Some("0"));
}

#[test]
fn a_blob_that_is_there_is_not_sent() {
    let server = taker(|request| {
        request
            .line
            .starts_with("HEAD")
            .then(|| reply("200 OK", "", b""))
    });
    assert_eq!(upload(&server, b"x", Some("c")).unwrap(), Uploaded::Exists);
    assert!(server.asked("POST").is_empty());
}

#[test]
fn a_blob_of_another_repository_is_mounted_where_the_registry_does_that() {
    for (status, expected) in [
        ("201 Created", Uploaded::Mounted("c".to_owned())),
        ("202 Accepted", Uploaded::Sent),
        ("403 Forbidden", Uploaded::Sent),
    ] {
        let server = taker(move |request| {
            let mounts =
                request.line.contains("mount=sha256:") && request.line.contains("&from=c ");
            mounts.then(|| reply(status, "Location: /upload/1?_state=a\r\n", b""))
        });
        assert_eq!(
            upload(&server, b"x", Some("c")).unwrap(),
            expected,
            "{status}"
        );
    }
}

#[test]
fn an_upload_that_breaks_goes_on_where_it_broke() {
    let server = taker(|request| {
        if request.line.starts_with("PATCH") && request.header("content-range").is_none() {
            return Some(reply("503 Service Unavailable", "", b""));
        }
        let state = "Location: /upload/1?_state=c\r\nRange: 0-3\r\n";
        request
            .line
            .starts_with("GET /upload/1?")
            .then(|| reply("204 No Content", state, b""))
    });
    assert_eq!(
        upload(&server, b"0123456789", None).unwrap(),
        Uploaded::Sent
    );
    let rest = &server.asked("PATCH /upload/1?_state=c ")[0];
    assert_eq!(rest.body, "456789");
    assert_eq!(rest.header("content-range"), Some("4-9"));
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew() {
    let tries = std::sync::atomic::AtomicU32::new(0);
    let server = taker(move |request| {
        let first = request.line.starts_with("PATCH")
            && tries.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        first.then(|| reply("500 Internal Server Error", "", b""))
    });
    assert_eq!(
        upload(&server, b"0123456789", None).unwrap(),
        Uploaded::Sent
    );
    assert_eq!(server.asked("POST").len(), 2);
    assert_eq!(server.asked("PATCH").len(), 2);
}

#[test]
fn a_registry_that_takes_little_at_once_gets_chunks() {
    let server = taker(|request| {
        let length: u64 = request.header("content-length")?.parse().unwrap();
        (length > 16 << 20).then(|| reply("413 Too Large", "", b""))
    });
    let bytes = vec![b'x'; 17 << 20];
    assert_eq!(upload(&server, &bytes, None).unwrap(), Uploaded::Sent);
    let ranges: Vec<_> = server
        .asked("PATCH")
        .iter()
        .filter_map(|request| request.header("content-range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["0-16777215", "16777216-17825791"]);
}

#[test]
fn an_upload_elsewhere_gets_no_pass() {
    let elsewhere = taker(|_| None);
    let address = elsewhere.address.clone();
    let server = taker(move |request| {
        let place = format!("Location: http://{address}/upload/1?_state=a\r\n");
        if request.header("authorization").is_none() {
            let challenge = "WWW-Authenticate: Basic realm=x\r\n";
            return Some(reply("401 Unauthorized", challenge, b""));
        }
        request
            .line
            .starts_with("POST")
            .then(|| reply("202 Accepted", &place, b""))
    });
    let (_dir, files) = auth_file(&server.address, LOGIN);
    let client = client(&server.address, files);
    let file = tempfile::tempfile().unwrap();
    file.set_len(4).unwrap();
    let blob = Blob {
        digest: &Digest::of(&[0; 4]),
        file: Some(&file),
        size: 4,
        from: None,
    };
    assert_eq!(
        client.upload("a/b", &blob, &|_| ()).unwrap(),
        Uploaded::Sent
    );
    let sent = elsewhere.asked("PATCH");
    assert_eq!((sent.len(), sent[0].header("authorization")), (1, None));
}

#[test]
fn tokens_for_pushing_and_mounting_name_all_they_need() {
    let server = with_tokens("");
    // It answers 200 to everything that shows a token, so that the blob counts as there.
    assert_eq!(upload(&server, b"x", None).unwrap(), Uploaded::Exists);
    let scope = "scope=repository%3Aa%2Fb%3Apull%2Cpush";
    assert_eq!(server.asked(scope).len(), 1);
    assert_eq!(
        Access::Push("a", Some("b")).scope(),
        "repository:a:pull,push repository:b:pull"
    );
}

#[test]
fn tags_are_listed_page_by_page_and_never_in_a_circle() {
    let server = Server::start(|request| {
        let (link, tags): (&str, &[u8]) = if request.line.contains("/circle/") {
            (
                "</v2/circle/tags/list?n=1>; rel=\"next\"",
                br#"{"tags":["x"]}"#,
            )
        } else if request.line.contains("/leaves/") {
            ("<http://127.0.0.1:1/>; rel=\"next\"", br#"{"tags":["x"]}"#)
        } else if request.line.contains("last=2") {
            ("", br#"{"tags":["3"]}"#)
        } else if request.line.contains("/none/") {
            ("", br#"{"tags":null}"#)
        } else {
            (
                "</v2/a/tags/list?n=2&last=2>; rel=\"next\"",
                br#"{"tags":["1","2"]}"#,
            )
        };
        let link = if link.is_empty() {
            String::new()
        } else {
            format!("Link: {link}\r\n")
        };
        reply("200 OK", &link, tags)
    });
    let client = server.client();
    assert_eq!(client.tags("a").unwrap(), ["1", "2", "3"]);
    assert!(client.tags("none").unwrap().is_empty());
    assert_eq!(fail(client.tags("circle")).kind, Kind::Corrupt);
    assert_eq!(fail(client.tags("leaves")).kind, Kind::Corrupt);
}

#[test]
fn a_login_is_checked_with_and_without_tokens() {
    let login = |password: &str| {
        Some(auth::Login::Password {
            user: "me".to_owned(),
            password: password.to_owned(),
        })
    };
    let tokens = with_tokens("Basic bWU6c2VjcmV0");
    let basic = Server::start(|request| match request.header("authorization") {
        Some("Basic bWU6c2VjcmV0") => reply("200 OK", "", b"{}"),
        _ => reply(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=x\r\n",
            b"",
        ),
    });
    for server in [&tokens, &basic] {
        let check = |password| {
            let options = ClientOptions {
                login: login(password),
                ..options(Vec::new())
            };
            Client::new(&server.address, options).unwrap().check_login()
        };
        check("secret").unwrap();
        assert_eq!(fail(check("wrong")).kind, Kind::Denied);
    }
}
