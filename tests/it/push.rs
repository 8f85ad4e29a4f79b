//! `rl push`, `login`, `logout`, `search`, `image ls-remote`, against real registry servers.

use serde_json::Value;

use crate::support::host::Need;
use crate::support::image::{Compression, Image, Layer};
use crate::support::registry::Line;
use crate::support::{Home, registry};

/// What skopeo finds at the registry, byte for byte.
fn raw(home: &Home, name: &str, options: &[&str]) -> Value {
    home.program("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .args(options)
        .arg(format!("docker://{name}"))
        .ok()
        .json()
}

fn layers(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back_the_same() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::with_busybox();
    let name = registry::fresh_name(&home);
    home.rl("tag busybox").arg(format!("{name}:1")).ok();
    let output = home.rl("push").arg(format!("{name}:1")).ok();
    output.stderr_has("Pushed");
    let digest = output.text().split_whitespace().nth(2).unwrap().to_owned();
    assert!(digest.starts_with("sha256:"), "{output:?}");
    // Nothing is sent twice; within the registry blobs are mounted.
    let again = home.rl("push").arg(format!("{name}:1")).ok();
    again.stderr_has("Layer already exists");
    let other = format!("{name}/other:2");
    let file = home.path().join("digest");
    home.rl("push busybox --digestfile")
        .arg(&file)
        .arg(&other)
        .ok()
        .stderr_has("Mounted");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), digest);
    home.rl("push -q busybox")
        .arg(&other)
        .ok()
        .stdout_is(&other)
        .stderr_is_empty();
    // It is listed as content of that registry from now on.
    home.rl("images --digests --format {{.Digest}}")
        .arg(format!("{name}:1"))
        .says(&digest);
    // Another home has it from there, with the same digest, and it runs.
    let there = Home::new();
    there
        .rl("run --rm")
        .arg(format!("{name}@{digest}"))
        .args(["echo", "back"])
        .ok()
        .stdout_is("back");
    home.rl("image ls-remote").arg(&name).says("1");
    home.rl("image ls-remote").arg(&other).says("2");
    let found = home.rl("search --format {{.Name}}").arg(&name).ok();
    found.stdout_has(&name).stdout_has(&format!("{name}/other"));
}

#[test]
fn what_was_pulled_is_pushed_byte_for_byte_in_every_format() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let base = registry::fresh_name(&home);
    for (tag, compression, options) in [
        ("plain", Compression::Plain, &["--dest-decompress"][..]),
        ("gzip", Compression::Gzip, &[]),
        ("zstd", Compression::Zstd, &[]),
        ("docker", Compression::Gzip, &["--format", "v2s2"]),
    ] {
        let layout = home.dir(tag);
        let marker = Layer::new().file("marker", 0o644, tag);
        Image::on_busybox(vec![marker]).oci_layout(&layout, tag, compression);
        let name = format!("{base}:{tag}");
        registry::push(&home, &layout, tag, &name, options);
        home.rl("pull -q").arg(&name).ok();
        let copy = format!("{base}/copy:{tag}");
        home.rl("push -q").args([&name, &copy]).ok();
        let (before, after) = (raw(&home, &name, &[]), raw(&home, &copy, &[]));
        assert_eq!(before.to_string(), after.to_string(), "{tag}");
    }
    // And in the other family's words, with the same layers.
    let (name, copy) = (format!("{base}:gzip"), format!("{base}:as-docker"));
    home.rl("push -q --format v2s2").args([&name, &copy]).ok();
    let docker = raw(&home, &copy, &[]);
    assert_eq!(
        docker["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(layers(&docker), layers(&raw(&home, &name, &[])));
    home.rl("push --format v2s2")
        .arg(format!("{base}:zstd"))
        .arg(format!("{base}:no"))
        .fails(125)
        .stderr_has("zstd");
}

#[test]
fn an_upload_over_a_line_that_is_cut_arrives_whole() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    // What gzip cannot make small.
    let noise: Vec<u8> = (0_u32..1 << 20)
        .flat_map(|number| {
            number
                .wrapping_mul(2_654_435_761)
                .rotate_left(number % 31)
                .to_le_bytes()
        })
        .collect();
    let layer = Layer::new().file("noise", 0o644, noise);
    home.load(&Image::on_busybox(vec![layer]), "noise");
    let name = registry::fresh_name(&home);
    let cutter = Line::cut(&registry::plain(), 1 << 20, 2);
    let through = name.replace(&registry::plain(), &cutter.address().to_string());
    home.rl("push noise").arg(&through).ok();
    assert!(cutter.is_done());
    // And back again over such a line, into another home.
    let cutter = Line::cut(&registry::plain(), 1 << 20, 3);
    let through = name.replace(&registry::plain(), &cutter.address().to_string());
    let other = Home::new();
    other.rl("pull").arg(&through).ok();
    assert!(cutter.is_done());
    other
        .rl("run --rm --pull never")
        .arg(&through)
        .args(["sha256sum", "/noise"])
        .ok();
}

#[test]
fn a_login_is_checked_kept_closed_used_and_forgotten() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::with_busybox();
    let address = registry::auth();
    let target = format!(
        "{address}/t/{}",
        registry::fresh_name(&home).split('/').next_back().unwrap()
    );
    home.rl("push busybox")
        .arg(&target)
        .fails(125)
        .stderr_has("rl login");
    let kept = home.path().join("home/.config/containers/auth.json");
    home.rl("login -u user --password-stdin")
        .arg(&address)
        .stdin("wrong")
        .fails(125)
        .stderr_has("refuses the login");
    assert!(!kept.exists(), "a login that is refused is not kept");
    home.rl("login -u user --password-stdin")
        .arg(&address)
        .stdin("secret\n")
        .ok()
        .stdout_is("Login Succeeded");
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    home.rl("login --get-login").arg(&address).says("user");
    home.rl("login")
        .arg(&address)
        .ok()
        .stdout_is("Login Succeeded");
    home.rl("push busybox").arg(&target).ok();
    // Other tools read the same file.
    home.program("skopeo")
        .args(["inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{target}"))
        .env("REGISTRY_AUTH_FILE", &kept)
        .ok();
    home.rl("logout").arg(&address).ok();
    home.rl("login --get-login").arg(&address).fails(125);
    home.rl("logout")
        .arg(&address)
        .fails(125)
        .stderr_has("not logged in");
    home.rl("pull").arg(&target).fails(125);
    home.rl("pull --creds user:secret").arg(&target).ok();
}

/// A credential helper `rltest` in the path, which keeps one secret in a file of the home.
fn with_helper(home: &mut Home) {
    let helper = "#!/bin/sh\ncase $1 in store) cat >$HOME/secret ;; get) cat >/dev/null; [ -e $HOME/secret ] && sed 's/ServerURL/Server/' $HOME/secret || { echo credentials not found in native keychain; exit 1; } ;; erase) rm $HOME/secret ;; esac\n";
    let file = home.file("bin/docker-credential-rltest", helper);
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        file.parent().unwrap().display()
    );
    home.set("PATH", path);
}

#[test]
fn a_login_goes_to_the_helpers_that_registries_conf_names() {
    needs!(Need::Ours, Need::Registry);
    let mut home = Home::new();
    let address = registry::auth();
    with_helper(&mut home);
    let helpers = r#"credential-helpers = ["nobody", "rltest", "containers-auth.json"]"#;
    configure(&home, helpers);
    let secret = home.path().join("home/secret");
    home.rl("login -u user --password-stdin")
        .arg(&address)
        .stdin("secret")
        .ok()
        .stderr_has("docker-credential-rltest");
    assert!(secret.exists());
    assert!(
        !home
            .path()
            .join("home/.config/containers/auth.json")
            .exists()
    );
    home.rl("login --get-login").arg(&address).says("user");
    let image = format!("{address}/private/busybox");
    home.rl("pull").arg(&image).ok();
    // A file that is named stands for all others.
    let empty = home.file("empty.json", "{}");
    home.rl("pull --authfile")
        .arg(&empty)
        .arg(&image)
        .fails(125);
    home.rl("logout nobody.example").fails(125);
    configure(&home, r#"credential-helpers = ["rltest"]"#);
    home.rl("logout").arg(&address).ok();
    assert!(!secret.exists());
    // Files that are not listed do not count.
    home.rl("login --authfile home/.config/containers/auth.json -u user --password-stdin")
        .cwd(home.path())
        .arg(&address)
        .stdin("secret")
        .ok();
    home.rl("pull").arg(&image).fails(125);
    configure(
        &home,
        r#"credential-helpers = ["rltest", "containers-auth.json"]"#,
    );
    home.rl("pull").arg(&image).ok();
}

/// Every command that asks a registry takes the same four flags.
#[test]
fn logins_and_certificates_are_given_with_each_command() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::with_busybox();
    let private = format!("{}/private/busybox", registry::auth());
    let file = home.file("auth.json", "{}");
    home.rl("login --authfile")
        .arg(&file)
        .args(["-u", "user", "-p", "secret", &registry::auth()])
        .ok();
    let file = file.to_str().unwrap().to_owned();
    let authfile = format!("--authfile={file}");
    let certs = home.dir("certs");
    std::fs::copy(registry::authority(), certs.join("ca.crt")).unwrap();
    let cert_dir = format!("--cert-dir={}", certs.display());
    let secure = format!("{}/busybox", registry::tls());
    for (line, flag, name) in [
        ("pull", authfile.as_str(), private.as_str()),
        ("pull", "--creds=user:secret", &private),
        ("pull", &cert_dir, &secure),
        ("pull", "--tls-verify=false", &secure),
        ("run --rm --network none --pull always", &authfile, &private),
        (
            "run --rm --network none --pull always",
            "--creds=user:secret",
            &private,
        ),
        ("run --rm --network none --pull always", &cert_dir, &secure),
        ("create --pull always", &authfile, &private),
        ("create --pull always", &cert_dir, &secure),
        ("image ls-remote", &authfile, &private),
        ("image ls-remote", &cert_dir, &secure),
        ("search", &authfile, &private),
        ("search", &cert_dir, &secure),
        ("manifest inspect", &authfile, &private),
        ("manifest inspect", "--creds=user:secret", &private),
        ("manifest inspect", &cert_dir, &secure),
        (
            "push busybox",
            &authfile,
            &private.replace("busybox", "again"),
        ),
        (
            "push busybox",
            &cert_dir,
            &secure.replace("busybox", "again"),
        ),
    ] {
        let without = home.rl(line).arg(name).run();
        assert_eq!(without.status.code(), Some(125), "{without:?}");
        home.rl(line).args([flag, name]).ok();
    }
    home.rl("login -u x --password-stdin")
        .arg(&cert_dir)
        .arg(registry::tls())
        .stdin("x")
        .ok();
    home.rl("login -u x --password-stdin")
        .arg(registry::tls())
        .stdin("x")
        .fails(125);
    home.rl("logout --authfile")
        .args([&file, &registry::auth()])
        .ok();
    home.rl("pull --cert-dir /nowhere")
        .arg(&secure)
        .fails(125)
        .stderr_has("/nowhere");
}

#[test]
fn a_login_goes_to_the_credential_helper_that_is_set() {
    needs!(Need::Ours, Need::Registry);
    let mut home = Home::new();
    let address = registry::auth();
    with_helper(&mut home);
    let config = home.file("home/.docker/config.json", r#"{"credsStore": "rltest"}"#);
    home.rl("login -u user --password-stdin")
        .arg(&address)
        .stdin("secret")
        .ok()
        .stderr_has("docker-credential-rltest");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(!text.contains("auth\""), "{text}");
    home.rl("login --get-login").arg(&address).says("user");
    home.rl("pull")
        .arg(format!("{address}/private/busybox"))
        .ok();
    home.rl("logout").arg(&address).ok();
    assert!(!home.path().join("home/secret").exists());
    home.rl("login --get-login").arg(&address).fails(125);
}

#[test]
fn a_password_is_asked_for_and_not_shown() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let mut terminal = home.rl("login").arg(registry::auth()).in_terminal();
    terminal.wait_for("Username: ");
    terminal.type_in("user\n");
    terminal.wait_for("Password: ");
    // Typed before the question is complete it would be shown.
    crate::support::wait_for("the terminal to hide", || terminal.is_raw().then_some(()));
    terminal.type_in("sexx\x7f\x7fcret\r");
    terminal.wait_for("Login Succeeded");
    assert!(terminal.wait().success());
    assert!(!terminal.screen().contains("cret"), "{}", terminal.screen());
    // Ctrl-C leaves a terminal that works.
    let mut terminal = home
        .rl("login -u other")
        .arg(registry::auth())
        .in_terminal();
    terminal.wait_for("Password: ");
    crate::support::wait_for("the terminal to hide", || terminal.is_raw().then_some(()));
    terminal.type_in("se\x03");
    assert_eq!(terminal.wait().code(), Some(125));
    assert!(!terminal.is_raw());
    home.rl("login")
        .arg(registry::auth())
        .arg("-u")
        .arg("x")
        .fails(125)
        .stderr_has("--password-stdin");
}

/// `text` as the user's registries.conf, in place of the machine's.
fn configure(home: &Home, text: &str) {
    home.file("home/.config/containers/registries.conf", text);
}

#[test]
fn mirrors_and_other_places_are_asked_and_the_name_stays() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let (plain, tls) = (registry::plain(), registry::tls());
    configure(
        &home,
        &format!(
            "[[registry]]\nprefix = \"moved.invalid/here\"\nlocation = \"{plain}\"\n\
             [[registry]]\nlocation = \"mirrored.invalid\"\n\
             [[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n\
             [[registry.mirror]]\nlocation = \"{tls}\"\ninsecure = true\n\
             [[registry]]\nprefix = \"*.wild.invalid\"\nlocation = \"{plain}\"\n\
             [[registry]]\nlocation = \"{plain}/blocked\"\nblocked = true\n"
        ),
    );
    for name in [
        "moved.invalid/here/busybox",
        "mirrored.invalid/busybox",
        "a.b.wild.invalid/busybox",
    ] {
        home.rl("pull")
            .arg(name)
            .ok()
            .stdout_is(&format!("{name}:latest"));
        home.rl("run --rm --pull never")
            .args([name, "echo", "here"])
            .says("here");
        home.rl("rmi").arg(name).ok();
    }
    let output = home.rl("pull mirrored.invalid/busybox").ok();
    output.stderr_has("going on without the mirror 127.0.0.1:1/busybox");
    // What the user says on the command line counts more than a file.
    home.rl("pull --tls-verify mirrored.invalid/other")
        .fails(125);
    home.rl("pull")
        .arg(format!("{plain}/blocked/busybox"))
        .fails(125)
        .stderr_has("blocked");
    configure(&home, "[[registry]]\nlocation = 5\n");
    home.rl("pull x.invalid/y")
        .fails(125)
        .stderr_has("registries.conf");
    // What is here needs no such file.
    home.rl("run --rm mirrored.invalid/busybox echo still")
        .says("still");
}

#[test]
fn short_names_mean_what_registries_conf_says() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::new();
    let plain = registry::plain();
    let alias = format!("[aliases]\n\"bb\" = \"{plain}/busybox\"\n");
    configure(&home, &alias);
    home.rl("pull bb:latest")
        .ok()
        .stdout_is(&format!("{plain}/busybox:latest"))
        .stderr_has("alias");
    home.rl("run --rm --pull never bb echo by alias")
        .says("by alias");
    home.rl("tag bb other:1").ok();
    // The alias stands for one name, so that the other one stays.
    home.rl("rmi bb").ok().stdout_lacks("Deleted");
    home.rl("rmi other:1").ok().stdout_has("Deleted");
    let search = format!("unqualified-search-registries = [\"127.0.0.1:1\", \"{plain}\"]\n");
    configure(&home, &format!("{search}short-name-mode = \"enforcing\"\n"));
    home.rl("pull busybox")
        .fails(125)
        .stderr_has("no terminal to ask");
    configure(&home, &search);
    home.rl("pull busybox")
        .ok()
        .stdout_is(&format!("{plain}/busybox:latest"));
    home.rl("rmi busybox").ok();
    let mut terminal = home.rl("run --rm busybox echo chosen").in_terminal();
    terminal.wait_for("Which one?");
    terminal.type_in("2\n");
    terminal.wait_for("chosen");
    assert!(terminal.wait().success());
}

#[test]
fn a_client_certificate_is_shown_and_a_bad_one_is_named() {
    needs!(Need::Ours, Need::Registry);
    let home = Home::with_busybox();
    let tls = registry::tls();
    let dir = format!("home/.config/containers/certs.d/{tls}");
    home.file(
        &format!("{dir}/ca.crt"),
        std::fs::read(registry::authority()).unwrap(),
    );
    let make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout";
    let full = home.path().join(&dir).display().to_string();
    home.sh(&format!(
        "{make} {full}/me.key -out {full}/me.cert 2>/dev/null"
    ))
    .ok();
    // This server asks for none, and takes any.
    home.rl("pull").arg(format!("{tls}/busybox")).ok();
    home.sh(&format!(
        "{make} {full}/me.key -out {full}/other 2>/dev/null"
    ))
    .ok();
    home.rl("pull")
        .arg(format!("{tls}/busybox"))
        .fails(125)
        .stderr_has("me.cert")
        .stderr_has("me.key");
}
