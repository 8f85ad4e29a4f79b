//! `rl pull`, `load`, `import`, `images`, `rmi`, `inspect`, against a real registry and images made by other tools.

use serde_json::json;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer, architecture, blob};
use crate::support::{Home, registry, wait_for};

#[test]
fn an_image_is_pulled_when_it_is_missing() {
    needs!(Need::Registry);
    let home = Home::new();
    let name = format!("{}/busybox", registry::plain());
    home.rl("run --rm")
        .args([&name, "echo", "pulled"])
        .ok()
        .stdout_is("pulled");
    // The second time it is there.
    let output = home
        .rl("run --rm --pull never")
        .args([&name, "echo", "again"])
        .ok();
    output.stdout_is("again").stderr_is_empty();
    home.rl("run --rm --pull always")
        .args([&name, "echo", "third"])
        .ok()
        .stdout_is("third");
    home.rl("run --rm --pull never")
        .arg(format!("{}/busybox:other", registry::plain()))
        .fails(125);
}

#[test]
fn alpine_from_the_registry_runs() {
    needs!(Need::Registry, Need::Alpine);
    let home = Home::new();
    let name = format!("{}/alpine", registry::plain());
    home.rl("run --rm")
        .args([&name, "apk", "--version"])
        .ok()
        .stdout_has("apk-tools");
    home.rl("run --rm").args([&name, "id", "-un"]).says("root");
}

#[test]
fn pull_by_tag_and_by_digest() {
    needs!(Need::Registry);
    let home = Home::new();
    let name = registry::fresh_name(&home);
    let layout = home.dir("layout");
    Image::busybox().oci_layout(&layout, "one", Compression::Gzip);
    registry::push(&home, &layout, "one", &format!("{name}:one"), &[]);
    home.rl("pull").arg(format!("{name}:one")).ok();
    home.rl("run --rm")
        .arg(format!("{name}:one"))
        .args(["echo", "tag"])
        .says("tag");
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let other = Home::new();
    other.rl("pull").arg(format!("{name}@{digest}")).ok();
    other
        .rl("run --rm")
        .arg(format!("{name}@{digest}"))
        .args(["echo", "digest"])
        .ok()
        .stdout_is("digest");
    let wrong = format!("{name}@sha256:{}", "0".repeat(64));
    other.rl("pull").arg(wrong).fails(125);
}

#[test]
fn quiet_pull_prints_the_id_alone() {
    needs!(Need::Registry);
    let home = Home::new();
    let output = home
        .rl("pull -q")
        .arg(format!("{}/busybox", registry::plain()))
        .ok();
    output.stderr_is_empty();
    assert_eq!(output.lines().len(), 1, "{output:?}");
}

#[test]
fn layers_of_every_compression_and_both_manifest_formats() {
    needs!(Need::Registry);
    let home = Home::new();
    let base = registry::fresh_name(&home);
    for (tag, compression, options) in [
        ("plain", Compression::Plain, &["--dest-decompress"][..]),
        ("gzip", Compression::Gzip, &[]),
        ("zstd", Compression::Zstd, &[]),
        ("estargz", Compression::EStargz, &[]),
        ("zstd-chunked", Compression::ZstdChunked, &[]),
        (
            "skopeo-zstd",
            Compression::Gzip,
            &["--dest-compress-format", "zstd"],
        ),
        ("docker", Compression::Gzip, &["--format", "v2s2"]),
    ] {
        let layout = home.dir(tag);
        let marker = Layer::new().file("marker", 0o644, tag);
        Image::on_busybox(vec![marker]).oci_layout(&layout, tag, compression);
        let name = format!("{base}:{tag}");
        registry::push(&home, &layout, tag, &name, options);
        home.rl("pull -q").arg(&name).ok();
        home.rl("run --rm")
            .args([&name, "cat", "/marker"])
            .says(tag);
    }
}

#[test]
fn of_an_index_the_right_platform_is_taken() {
    needs!(Need::Registry);
    let home = Home::new();
    let name = registry::fresh_name(&home);
    let layout = home.dir("layout");
    Image::busybox().oci_layout(&layout, "unused", Compression::Gzip);
    let foreign = if architecture() == "amd64" {
        "arm64"
    } else {
        "amd64"
    };
    let manifests: Vec<_> = ["s390x", foreign, architecture()]
        .iter()
        .map(|platform| {
            let marker = Layer::new().file("marker", 0o644, platform);
            Image::on_busybox(vec![marker]).manifest(&layout, platform, Compression::Gzip)
        })
        .collect();
    let kind = "application/vnd.oci.image.index.v1+json";
    let index =
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests }).to_string();
    let mut descriptor = blob(&layout, kind, index.as_bytes());
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "multi" });
    let top = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    std::fs::write(layout.join("index.json"), top.to_string()).unwrap();
    registry::push(
        &home,
        &layout,
        "multi",
        &format!("{name}:multi"),
        &["--all"],
    );
    home.rl("pull -q").arg(format!("{name}:multi")).ok();
    home.rl("run --rm")
        .arg(format!("{name}:multi"))
        .args(["cat", "/marker"])
        .says(architecture());
    let other = Home::new();
    other
        .rl("pull -q --platform")
        .arg(format!("linux/{foreign}"))
        .arg(format!("{name}:multi"))
        .ok();
    let output = other
        .rl("inspect --type image --format")
        .arg("{{.Architecture}}")
        .arg(format!("{name}:multi"))
        .ok();
    output.stdout_is(foreign);
    Home::new()
        .rl("pull -q --platform linux/mips64le")
        .arg(format!("{name}:multi"))
        .fails(125)
        .stderr_has_one_of(&["mips64le"]);
}

#[test]
fn many_layers_lie_in_the_right_order_with_their_whiteouts() {
    let home = Home::new();
    let layers = vec![
        Layer::new()
            .dir("d", 0o755)
            .file("d/gone", 0o644, "1")
            .file("d/kept", 0o644, "1")
            .dir("opaque", 0o755)
            .file("opaque/below", 0o644, "1")
            .file("file", 0o644, "first"),
        Layer::new()
            .file("d/.wh.gone", 0o644, "")
            .dir("opaque", 0o755)
            .file("opaque/.wh..wh..opq", 0o644, "")
            .file("opaque/above", 0o644, "2")
            .file("file", 0o755, "second"),
        Layer::new()
            .file(".wh.d2", 0o644, "")
            .hard_link("linked", "file"),
        Layer::new()
            .file("linked-here", 0o640, "same")
            .hard_link("linked-too", "linked-here"),
    ];
    let image = Image::on_busybox(layers);
    // A hard link to a file of a layer below is not legal in a layer of its own.
    let image = Image {
        layers: vec![
            image.layers[0].clone(),
            image.layers[1].clone(),
            image.layers[2].clone(),
            image.layers[4].clone(),
        ],
        ..image
    };
    home.load(&image, "layers:latest");
    home.rl("run --rm layers sh -c")
        .arg("ls /d /opaque; cat /file; echo; stat -c %h /linked-here; [ /linked-here -ef /linked-too ] && echo same")
        .says("/d:\nkept\n\n/opaque:\nabove\nsecond\n2\nsame");
}

#[test]
fn a_hundred_layers_fit() {
    let home = Home::new();
    let layers = (0..100)
        .map(|number| Layer::new().file(&format!("f{number}"), 0o644, number.to_string()))
        .collect();
    home.load(&Image::on_busybox(layers), "hundred:latest");
    home.rl("run --rm hundred sh -c")
        .arg("ls / | grep -c '^f[0-9]'; cat /f0 /f50 /f99")
        .says("100\n05099");
}

/// What `openssl req -x509` makes when nothing more is said.
#[test]
fn an_authority_that_is_shown_as_a_server_is_said_to_be_one() {
    needs!(
        Need::Ours,
        Need::Program("openssl"),
        Need::Program("docker-registry")
    );
    let mut home = Home::new();
    home.sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 2>req.log").ok();
    home.set("SSL_CERT_FILE", home.path().join("cert.pem"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let setup = json!({
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": home.dir("registry")}},
        "http": {"addr": address, "tls": {"certificate": "cert.pem", "key": "key.pem"}},
    });
    home.file("registry.yml", setup.to_string());
    let _server = home
        .program("docker-registry")
        .args(["serve", "registry.yml"])
        .spawn();
    wait_for("the server", || std::net::TcpStream::connect(&address).ok());
    let output = home.rl("pull").arg(format!("{address}/x")).fails(125);
    output.stderr_has("is an authority's, which may only sign others");
    output.stderr_has("CA:FALSE");
    output.stderr_has("RL-I03");
}

#[test]
fn tls_is_verified_and_a_private_authority_can_be_named() {
    needs!(Need::Registry);
    let mut home = Home::new();
    let name = format!("{}/busybox", registry::tls());
    let output = home.rl("pull").arg(&name).fails(125);
    output.stderr_has_one_of(&["certificate", "x509"]);
    home.set("SSL_CERT_FILE", registry::authority());
    home.rl("pull").arg(&name).ok();
    home.rl("run --rm")
        .args([&name, "echo", "tls"])
        .ok()
        .stdout_is("tls");
}

#[test]
fn tls_verification_can_be_turned_off_by_the_user() {
    needs!(Need::Registry);
    let home = Home::new();
    home.rl("pull --tls-verify=false")
        .arg(format!("{}/busybox", registry::tls()))
        .ok();
}

fn credentials(user: &str) -> String {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(user);
    json!({ "auths": { registry::auth(): { "auth": auth } } }).to_string()
}

#[test]
fn credentials_are_read_where_docker_and_podman_keep_them() {
    needs!(Need::Registry);
    let name = format!("{}/private/busybox", registry::auth());
    for place in ["home/.docker/config.json", "run/containers/auth.json"] {
        let home = Home::new();
        let output = home.rl("pull").arg(&name).fails(125);
        output.stderr_has_one_of(&["unauthorized", "login", "authentication"]);
        home.file(place, credentials("user:secret"));
        home.rl("pull").arg(&name).ok();
        home.rl("run --rm")
            .args([&name, "echo", "private"])
            .ok()
            .stdout_is("private");
    }
}

#[test]
fn wrong_credentials_are_refused() {
    needs!(Need::Registry);
    let home = Home::new();
    home.file("home/.docker/config.json", credentials("user:wrong"));
    let output = home
        .rl("pull")
        .arg(format!("{}/private/busybox", registry::auth()))
        .fails(125);
    output.stderr_has_one_of(&["unauthorized", "login", "authentication"]);
    assert!(
        !output.stderr.contains("wrong"),
        "the password was printed: {output:?}"
    );
}

#[test]
fn images_of_every_archive_format_are_loaded() {
    let home = Home::new();
    let docker = Image::on_busybox(vec![Layer::new().file("marker", 0o644, "docker")])
        .docker_archive("d:one");
    let path = home.file("docker.tar", &docker);
    home.rl("load -i").arg(&path).ok().stdout_has("d:one");
    home.rl("run --rm d:one cat /marker").says("docker");
    needs!(Need::Ours); // podman 4.3 does not look for compression here
    // From standard input, and compressed in every way.
    for program in ["gzip", "zstd", "xz"] {
        let tag = format!("{program}:one");
        let archive = Image::on_busybox(vec![Layer::new().file("marker", 0o644, program)])
            .docker_archive(&tag);
        let path = home.file("plain.tar", archive);
        home.program(program)
            .args(["-q", "-f", "-k"])
            .arg(&path)
            .ok();
        let extension = match program {
            "gzip" => "gz",
            "zstd" => "zst",
            other => other,
        };
        let compressed = std::fs::read(path.with_extension(format!("tar.{extension}"))).unwrap();
        home.rl("load").stdin(compressed).ok();
        home.rl("run --rm")
            .arg(&tag)
            .args(["cat", "/marker"])
            .says(program);
    }
}

#[test]
fn an_oci_archive_is_loaded() {
    let home = Home::new();
    let image = Image::on_busybox(vec![Layer::new().file("marker", 0o644, "oci")]);
    let archive = image.oci_archive(&home, "o:one");
    home.rl("load -i").arg(&archive).ok();
    let tag = match crate::support::under_test() {
        crate::support::UnderTest::Rl => "o:one",
        crate::support::UnderTest::Podman => "localhost/o:one",
    };
    home.rl("run --rm")
        .arg(tag)
        .args(["cat", "/marker"])
        .says("oci");
}

#[test]
fn what_other_tools_save_is_loaded() {
    needs!(Need::Registry, Need::Program("skopeo"));
    let home = Home::new();
    let source = format!("docker://{}/busybox", registry::plain());
    for format in ["docker-archive", "oci-archive"] {
        let path = home.path().join(format!("{format}.tar"));
        home.program("skopeo")
            .args(["copy", "--quiet", "--src-tls-verify=false"])
            .arg(&source)
            .arg(format!("{format}:{}:saved/{format}:v1", path.display()))
            .ok();
        home.rl("load -i").arg(&path).ok();
    }
    home.rl("run --rm saved/docker-archive:v1 echo one")
        .says("one");
    needs!(Need::Ours); // podman says localhost/
    home.rl("run --rm saved/oci-archive:v1 echo two")
        .says("two");
}

#[test]
fn a_root_file_system_is_imported() {
    let home = Home::new();
    let tar = home.file("root.tar", Layer::new().with_busybox().finish());
    home.rl("import").arg(&tar).arg("imported:one").ok();
    home.rl("run --rm imported:one /bin/echo fine").says("fine");
    home.rl("import -c")
        .arg("CMD echo by default")
        .args([
            "-c",
            "ENV PATH=/bin",
            "-m",
            "a message",
            "-",
            "imported:two",
        ])
        .stdin(std::fs::read(&tar).unwrap())
        .ok();
    home.rl("run --rm imported:two").says("by default");
}

#[test]
fn images_are_listed_as_docker_lists_them() {
    let home = Home::with_busybox();
    home.load(
        &Image::on_busybox(vec![Layer::new().file("x", 0o644, "x")]),
        "me/other:v2",
    );
    let output = home.rl("images").ok();
    let header: Vec<_> = output.lines()[0].split_whitespace().collect();
    assert_eq!(
        header,
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    );
    assert_eq!(output.lines().len(), 3, "{output:?}");
    let format = home
        .rl("images --format")
        .arg("{{.Repository}}:{{.Tag}}")
        .ok();
    let mut names: Vec<_> = format
        .lines()
        .iter()
        .map(|name| {
            name.trim_start_matches("docker.io/")
                .trim_start_matches("localhost/")
                .trim_start_matches("library/")
                .to_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["busybox:latest", "me/other:v2"]);
    let quiet = home.rl("images -q").ok();
    assert!(quiet.lines().iter().all(|id| id.len() == 12), "{quiet:?}");
    let full = home.rl("images -q --no-trunc busybox").ok();
    assert!(
        full.text().starts_with("sha256:") && full.text().len() == 71,
        "{full:?}"
    );
}

#[test]
fn images_are_inspected() {
    let home = Home::new();
    let config = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": { "a": "b" }, "WorkingDir": "/tmp", "User": "app", "StopSignal": "SIGINT" });
    home.load(&Image::busybox().config(config), "seen:latest");
    let output = home.rl("inspect seen").ok();
    let json = output.json();
    let one = &json[0];
    assert_eq!(one["Architecture"], architecture());
    assert_eq!(one["Os"], "linux");
    assert_eq!(one["Config"]["Cmd"][0], "sh");
    assert_eq!(one["Config"]["Labels"]["a"], "b");
    assert_eq!(one["Config"]["WorkingDir"], "/tmp");
    assert_eq!(one["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert!(
        one["RepoTags"][0]
            .as_str()
            .unwrap()
            .ends_with("seen:latest")
    );
    home.rl("inspect --format")
        .args(["{{.Config.User}} {{index .Config.Env 0}}", "seen"])
        .says("app PATH=/bin");
    home.rl("inspect no-such-thing")
        .run()
        .stderr_has("no-such-thing");
}

#[test]
fn images_are_removed_and_take_their_files_along() {
    let home = Home::with_busybox();
    home.load(
        &Image::on_busybox(vec![Layer::new().file("x", 0o644, "x")]),
        "second:latest",
    );
    home.rl("rmi busybox").ok();
    // The layer that both share is still there for the other.
    home.rl("run --rm second cat /x").says("x");
    home.rl("run --rm --pull never busybox true").fails(125);
    home.rl("rmi second").ok();
    assert_eq!(home.rl("images -q").ok().text(), "");
    home.rl("rmi second").run().stderr_has("second");
    needs!(Need::Ours);
    for place in ["layers", "images/blobs/sha256"] {
        let left: Vec<_> = std::fs::read_dir(home.store().join(place))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
}

#[test]
fn an_image_in_use_is_not_removed() {
    let home = Home::with_busybox();
    let mut running = home
        .rl("run --rm -i busybox sh -c")
        .arg("echo ready; cat")
        .spawn();
    running.wait_for_stdout("ready");
    let output = home.rl("rmi busybox").run();
    assert!(!output.status.success(), "{output:?}");
    running.wait().code(0);
    home.rl("rmi busybox").ok();
}

#[test]
fn the_store_is_an_oci_layout_that_other_tools_read() {
    needs!(Need::Ours, Need::Registry, Need::Program("skopeo"));
    let home = Home::new();
    let name = format!("{}/busybox:latest", registry::plain());
    home.rl("pull -q").arg(&name).ok();
    let store = home.store().join("images");
    assert!(store.join("oci-layout").exists());
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.join("index.json")).unwrap()).unwrap();
    let annotations = &index["manifests"][0]["annotations"];
    let reference = annotations["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap();
    let copy = home.dir("copy");
    home.program("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci:{}:{reference}", store.display()))
        .arg(format!("dir:{}", copy.display()))
        .ok();
    assert!(copy.join("manifest.json").exists());
}

#[test]
fn layers_are_shared_and_fetched_once() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let name = registry::fresh_name(&home);
    let layout = home.dir("layout");
    for tag in ["one", "two"] {
        Image::on_busybox(vec![Layer::new().file("marker", 0o644, tag)]).oci_layout(
            &layout,
            tag,
            Compression::Gzip,
        );
        registry::push(&home, &layout, tag, &format!("{name}:{tag}"), &[]);
        home.rl("pull -q").arg(format!("{name}:{tag}")).ok();
    }
    assert_eq!(
        std::fs::read_dir(home.store().join("layers"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().join("fs").exists())
            .count(),
        3
    );
}

#[test]
fn the_same_image_pulled_by_many_at_once_is_whole() {
    needs!(Need::Registry);
    let home = Home::new();
    let name = format!("{}/busybox", registry::plain());
    let running: Vec<_> = (0..6)
        .map(|_| {
            home.rl("run --rm --network none")
                .args([&name, "echo", "fine"])
                .spawn()
        })
        .collect();
    for one in running {
        one.wait().code(0).stdout_is("fine");
    }
}
