//! `policy.json` and signatures: what skopeo lets in, `rl` lets in, and nothing else.

use serde_json::{Value, json};

use crate::support::host::Need;
use crate::support::image::{Image, blob};
use crate::support::{Home, registry};

const POLICY: &str = "home/.config/containers/policy.json";
const PLACES: &str = "home/.config/containers/registries.d/x.yaml";

/// Whether skopeo lets it in by the same files; what it says where it does not.
fn skopeo(home: &Home, from: &str) -> Result<(), String> {
    let to = home.path().join("out");
    let _ = std::fs::remove_dir_all(&to);
    let output = home
        .program("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", from])
        .arg(format!("dir:{}", to.display()))
        .run();
    match output.status.code() {
        Some(0) => Ok(()),
        _ => Err(format!("{output:?}")),
    }
}

/// `rl` decides as expected, and skopeo does the same.
#[track_caller]
fn decided(home: &Home, from: &str, accepted: bool) {
    let theirs = skopeo(home, from);
    assert_eq!(theirs.is_ok(), accepted, "skopeo, {from}: {theirs:?}");
    let name = from.strip_prefix("docker://").unwrap_or(from);
    if accepted {
        home.rl("pull").arg(name).ok();
    } else {
        home.rl("pull")
            .arg(name)
            .fails(125)
            .stderr_has("policy.json");
    }
}

fn accept() -> Value {
    json!([{"type": "insecureAcceptAnything"}])
}

fn reject() -> Value {
    json!([{"type": "reject"}])
}

#[test]
fn images_are_let_in_and_kept_out_by_their_place() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::with_busybox();
    let name = registry::fresh_name(&home);
    for tag in ["good", "bad"] {
        home.rl("push -q busybox").arg(format!("{name}:{tag}")).ok();
    }
    for (form, file) in [
        ("oci-dir", "oci"),
        ("oci-archive", "oci.tar"),
        ("docker-dir", "flat"),
        ("docker-archive", "docker.tar"),
    ] {
        home.rl(&format!("save -q --format {form} -o {file} busybox"))
            .cwd(home.path())
            .ok();
    }
    let here = home.path().display();
    let sources = [
        format!("docker://{name}:good"),
        format!("docker://{name}:bad"),
        format!("oci:{here}/oci"),
        format!("oci-archive:{here}/oci.tar"),
        format!("dir:{here}/flat"),
    ];
    for (policy, accepted) in [
        (json!({"default": accept()}), [true, true, true, true, true]),
        (
            json!({"default": reject()}),
            [false, false, false, false, false],
        ),
        (
            json!({"default": reject(), "transports": {
                "docker": {name.clone(): accept(), format!("{name}:bad"): reject()},
                "oci": {"": accept()},
                "dir": {here.to_string(): accept()},
            }}),
            [true, false, true, false, true],
        ),
        (
            json!({"default": accept(), "transports": {
                "docker": {registry::plain(): reject(), format!("{name}:good"): accept()},
                "oci": {format!("{here}/oci"): reject()},
                "oci-archive": {here.to_string(): reject()},
                "dir": {format!("{here}/fla"): reject()},
            }}),
            [true, false, false, false, true],
        ),
    ] {
        home.file(POLICY, policy.to_string());
        for (from, accepted) in sources.iter().zip(accepted) {
            decided(&home, from, accepted);
        }
    }
    // Files that are loaded and imported are looked at, too; `run` and `manifest push` pull by the same way.
    home.file(POLICY, json!({"default": reject()}).to_string());
    for line in [
        "load -i docker.tar",
        "load -i oci.tar",
        "load -i oci",
        "import docker.tar",
        "run --rm --pull always busybox",
        "create --pull always busybox",
    ] {
        let line = line.replace("always busybox", &format!("always {name}:good"));
        home.rl(&line)
            .cwd(home.path())
            .fails(125)
            .stderr_has("not allowed on this machine");
    }
    let docker = json!({"default": reject(), "transports": {"docker-archive": {"": accept()}}});
    home.file(POLICY, docker.to_string());
    let archive = home.file("own.tar", Image::busybox().docker_archive("own"));
    home.rl("load -q -i").arg(archive).ok();
    // What is here is here.
    home.rl("run --rm --network none busybox echo fine")
        .says("fine");
}

#[test]
fn what_cannot_be_checked_is_refused_and_a_broken_policy_too() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let name = format!("{}/busybox", registry::plain());
    let gpg = json!([{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]);
    home.file(POLICY, json!({"default": gpg}).to_string());
    home.rl("pull")
        .arg(&name)
        .fails(125)
        .stderr_has("`signedBy`");
    for text in ["{", "{}", r#"{"default": [{"type": "acceptAll"}]}"#] {
        home.file(POLICY, text);
        home.rl("pull")
            .arg(&name)
            .fails(125)
            .stderr_has("policy.json");
        assert!(skopeo(&home, &format!("docker://{name}")).is_err());
    }
    home.rl("images").ok();
}

/// A key pair `NAME.key` and `NAME.pub`.
fn key(home: &Home, name: &str) -> String {
    home.sh(&format!(
        "openssl ecparam -name prime256v1 -genkey -noout -out {name}.key && \
         openssl ec -in {name}.key -pubout -out {name}.pub"
    ))
    .cwd(home.path())
    .ok();
    home.path()
        .join(format!("{name}.pub"))
        .display()
        .to_string()
}

/// What cosign and skopeo sign: this manifest under this name; and the signature.
fn sign(home: &Home, manifest: &str, name: &str) -> (Vec<u8>, String) {
    let payload = json!({
        "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": manifest},
            "identity": {"docker-reference": name},
        },
        "optional": {"creator": "a test", "timestamp": 1},
    })
    .to_string();
    home.file("payload", &payload);
    let made = home
        .sh("openssl dgst -sha256 -sign own.key payload | base64 -w 0")
        .cwd(home.path())
        .ok();
    (payload.into_bytes(), made.text().to_owned())
}

/// Puts a signature beside an image of the plain registry, as cosign does: a manifest with the tag `sha256-HEX.sig`.
fn attach(home: &Home, name: &str, manifest: &str, (payload, signature): &(Vec<u8>, String)) {
    let layout = home.dir("attachment");
    home.dir("attachment/blobs/sha256");
    let describe = |kind: &str, bytes: &[u8]| blob(&layout, kind, bytes);
    let config = describe("application/vnd.oci.image.config.v1+json", b"{}");
    let mut layer = describe("application/vnd.dev.cosign.simplesigning.v1+json", payload);
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
    let attached = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    home.file("attached.json", attached.to_string());
    let (host, repository) = name.split_once('/').unwrap();
    let tag = manifest.replace(':', "-") + ".sig";
    let upload = format!(
        "for blob in attachment/blobs/sha256/*; do \
           place=$(curl -sf -X POST -D - -o /dev/null http://{host}/v2/{repository}/blobs/uploads/ | \
             tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'); \
           curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary @$blob \"$place&digest=sha256:${{blob##*/}}\"; \
         done; \
         curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
           --data-binary @attached.json http://{host}/v2/{repository}/manifests/{tag}"
    );
    home.sh(&upload).cwd(home.path()).ok();
}

/// The image at the plain registry, and the digest of its manifest.
fn image(home: &Home, name: &str) -> String {
    home.rl("push -q busybox").arg(name).ok();
    let file = home.path().join("digest");
    home.rl("push -q --digestfile")
        .arg(&file)
        .args(["busybox", name])
        .ok();
    std::fs::read_to_string(file).unwrap()
}

fn demand(home: &Home, key: &str, identity: Option<Value>) {
    let mut requirement = json!({"type": "sigstoreSigned", "keyPath": key});
    if let Some(identity) = identity {
        requirement["signedIdentity"] = identity;
    }
    let policy = json!({"default": reject(), "transports": {"docker": {"": [requirement]}}});
    home.file(POLICY, policy.to_string());
}

#[test]
fn signatures_by_a_key_are_checked() {
    needs!(
        Need::Ours,
        Need::Registry,
        Need::Program("curl"),
        Need::Program("openssl")
    );
    let home = Home::with_busybox();
    let name = registry::fresh_name(&home);
    let own = key(&home, "own");
    let other = key(&home, "other");
    let digest = image(&home, &format!("{name}:signed"));
    image(&home, &format!("{name}:moved"));
    let made = sign(&home, &digest, &format!("{name}:signed"));
    let refused = |tag: &str, why: &str| {
        home.rl("pull")
            .arg(format!("{name}{tag}"))
            .fails(125)
            .stderr_has(why)
            .stderr_has("policy.json");
    };
    let accepted = |tag: &str| {
        home.rl("pull").arg(format!("{name}{tag}")).ok();
    };

    demand(&home, &own, None);
    refused(":signed", "there is none");
    attach(&home, &name, &digest, &made);
    refused(":signed", "there is none");
    let host = registry::plain();
    home.file(
        PLACES,
        format!("docker:\n  {host}:\n    use-sigstore-attachments: true\n"),
    );
    accepted(":signed");
    accepted(&format!("@{digest}"));
    refused(":moved", &format!("it is for the name `{name}:signed`"));
    demand(&home, &own, Some(json!({"type": "matchExact"})));
    refused(&format!("@{digest}"), "it is for the name");
    demand(&home, &own, Some(json!({"type": "matchRepository"})));
    accepted(":moved");
    let exact = json!({"type": "exactReference", "dockerReference": format!("{name}:signed")});
    demand(&home, &own, Some(exact));
    accepted(":moved");
    let elsewhere = json!({"type": "exactRepository", "dockerRepository": "docker.io/library/x"});
    demand(&home, &own, Some(elsewhere));
    refused(":signed", "it is for the name");
    demand(&home, &other, None);
    refused(":signed", "by another key");
    demand(&home, "/nowhere.pub", None);
    refused(":signed", "/nowhere.pub");
    demand(
        &home,
        &home.file("bad.pub", "no key").display().to_string(),
        None,
    );
    refused(":signed", "is no public key");

    // A good signature of something else.
    demand(&home, &own, None);
    let false_one = sign(
        &home,
        &format!("sha256:{}", "0".repeat(64)),
        &format!("{name}:signed"),
    );
    attach(&home, &name, &digest, &false_one);
    refused(":signed", "it is for sha256:000");
    attach(&home, &name, &digest, &(made.0.clone(), false_one.1));
    refused(":signed", "by another key, or of another content");
}

#[test]
fn signatures_are_found_in_a_place_of_their_own() {
    needs!(Need::Ours, Need::Registry, Need::Program("openssl"));
    let home = Home::with_busybox();
    let name = registry::fresh_name(&home);
    let host = registry::plain();
    let own = key(&home, "own");
    let digest = image(&home, &format!("{name}:1"));
    let (payload, signature) = sign(&home, &digest, &format!("{name}:1"));
    let base64 = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.encode(bytes)
    };
    let stored = |signature: &str| {
        let json = json!({
            "mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "payload": base64(&payload),
            "annotations": {"dev.cosignproject.cosign/signature": signature},
        });
        [&b"\0sigstore-json\n"[..], json.to_string().as_bytes()].concat()
    };
    let repository = name.split_once('/').unwrap().1;
    let place = format!("{repository}@{}", digest.replace(':', "="));
    demand(&home, &own, None);
    let pull = || home.rl("pull").arg(format!("{name}:1"));

    let aside = home.dir(&format!("aside/{place}"));
    let base = home.path().join("aside");
    home.file(
        PLACES,
        format!(
            "docker:\n  {host}:\n    lookaside: file://{}\n",
            base.display()
        ),
    );
    pull().fails(125).stderr_has("there is none");
    // Another kind, which is passed over, and then ours.
    std::fs::write(aside.join("signature-1"), b"\x89\x02GPG's").unwrap();
    std::fs::write(aside.join("signature-2"), stored(&signature)).unwrap();
    pull().ok();

    // From a server, too.
    let server = registry::Liar::start();
    let url = format!("/s/{place}/signature-1");
    let kind = "application/octet-stream";
    home.file(
        PLACES,
        format!(
            "docker:\n  {host}:\n    lookaside: http://{}/s\n",
            server.address()
        ),
    );
    pull().fails(125).stderr_has("there is none");
    server.answer(&url, 200, kind, &stored(&signature));
    pull().ok();
    server.answer(&url, 200, kind, &stored(&base64(b"no signature")));
    pull().fails(125).stderr_has("by another key");
    server.answer(&url, 200, kind, b"\0sigstore-json\n{");
    pull().fails(125).stderr_has("cannot be read");
    server.endless(&url, 1 << 30);
    pull().fails(125).stderr_has("more than");
}
