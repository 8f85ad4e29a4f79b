use super::*;
#[test]
fn hand() {
    let Ok(args) = std::env::var("HAND") else { return };
    let args: Vec<&str> = args.split(' ').collect();
    let store = crate::paths::Store::at(args[1].into());
    let ids = if args[2] == "single" { layer::Ids::Single } else { layer::Ids::Mapped };
    let start = std::time::Instant::now();
    let file = std::fs::File::open(args[3]).unwrap();
    match args[0] {
        "import" => {
            let o = archive::ImportOptions { reference: Some(reference::Reference::parse(args[4]).unwrap()), ..Default::default() };
            match archive::import(&store, file, &o, ids, &ingest::Silent) { Ok(x) => eprintln!("ok {x}"), Err(e) => eprintln!("{}", crate::error::report(&e)) }
        }
        "load" => match archive::load(&store, file, ids, &ingest::Silent) { Ok(x) => eprintln!("ok {x:?}"), Err(e) => eprintln!("{}", crate::error::report(&e)) },
        _ => {}
    }
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    eprintln!("wall {:?} user {} sys {} maxrss {} KiB", start.elapsed(), usage.user_time(), usage.system_time(), usage.max_rss());
    for i in store::Images::open(&store).list().unwrap() {
        eprintln!("{:?} {} {}", i.names.iter().map(|n| n.familiar()).collect::<Vec<_>>(), i.id.short(), i.config.rootfs.diff_ids.iter().map(|d| d.hex().to_string()).collect::<Vec<_>>().join(" "));
    }
}
