//! Container images as a base: layouts and archives, what layers do to each other, and hostile ones.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "what fails here is a failed test")]

mod support;

use std::fs;
use std::path::Path;

use nex_rootfs::{Base, Recipe, RootfsError};
use serde_json::json;
use support::{
    Image, Layer, Packing, archive, build, build_on, content, debugfs, gzip, is_there, layout, owned, recipe, sha256,
    tools,
};
use tar::EntryType;

fn layers() -> Vec<Layer> {
    vec![
        Layer::default()
            .folder("./")
            .folder("etc/")
            .file("etc/os", "first")
            .file("etc/gone", "x")
            .folder("opaque")
            .file("opaque/old", "x")
            .file("a b \"c\" \\d", "quoted")
            .link("lib", "usr/lib"),
        Layer::default()
            .file("etc/os", "second")
            .file("etc/.wh.gone", "")
            .file("opaque/new", "y")
            .file("opaque/.wh..wh..opq", "")
            .file("lib/thing", "through a link")
            .hard("etc/again", "etc/os")
            .entry(EntryType::Regular, "srv/mine", "", b"m", |header| {
                header.set_mode(0o4111);
                header.set_uid(1234);
                header.set_gid(77);
            })
            .entry(EntryType::Directory, "srv/shut", "", b"", |header| header.set_mode(0o1050))
            .file("srv/shut/in", "z")
            .entry(EntryType::Char, "dev-null", "", b"", |_| ())
            .entry(EntryType::Fifo, "pipe", "", b"", |_| ()),
    ]
}

fn is_as_layered(image: &Path) {
    assert_eq!(content(image, "/etc/os"), "second");
    assert_eq!(content(image, "/etc/again"), "second");
    assert_eq!(content(image, "/usr/lib/thing"), "through a link");
    assert_eq!(content(image, "/a b \"\"c\"\" \\d"), "quoted");
    for (name, there) in [
        ("/etc/gone", false),
        ("/etc/.wh.gone", false),
        ("/opaque/old", false),
        ("/opaque/new", true),
        ("/srv/shut/in", true),
        ("/dev-null", false),
        ("/pipe", false),
    ] {
        assert_eq!(is_there(image, name), there, "{name}");
    }
    assert_eq!(owned(image, "/srv/mine"), ("04111".to_owned(), 1234, 77));
    assert_eq!(owned(image, "/srv/shut"), ("01050".to_owned(), 0, 0));
    assert!(debugfs(image, "stat /etc/again").contains("Links: 2"));
}

#[test]
fn layers_are_laid_over_each_other_however_they_are_packed_and_always_give_the_same_image() {
    if !tools() {
        return;
    }
    let mut images = Vec::new();
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd, Packing::Gzip] {
        let folder = tempfile::tempdir().unwrap();
        let base = layout(folder.path(), &layers(), packing);
        let made = build_on(&base, folder.path()).unwrap();
        let record = made.base.unwrap();
        assert_eq!(record.reference, "layout");
        assert!(record.digest.starts_with("sha256:"));
        is_as_layered(&folder.path().join("image"));
        images.push(fs::read(folder.path().join("image")).unwrap());
        // The second in which an image is made is not in it.
        std::thread::sleep(std::time::Duration::from_millis(400));
    }
    assert!(images[1] == images[3], "the same layers give the same image");
}

#[test]
fn an_archive_is_a_layout_or_what_docker_saves_compressed_or_not() {
    if !tools() {
        return;
    }
    let mut image = Image::default();
    let manifest = image.add("amd64", &layers(), Packing::Gzip);
    let as_layout = archive(&image.files(&[manifest]));
    // The older form: layers under names of their own, one of them a link to another.
    let tars: Vec<_> = layers().iter().map(Layer::tar).collect();
    let diffs: Vec<_> = tars.iter().map(|tar| sha256(tar)).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "diff_ids": diffs } }).to_string();
    let name = format!("{}.json", sha256(config.as_bytes()).trim_start_matches("sha256:"));
    let saved = |config: &str, first: &[u8]| {
        let manifest =
            json!([{ "Config": name, "RepoTags": ["a/b:v1"], "Layers": ["one/layer.tar", "two/layer.tar"] }]);
        archive(&[
            ("one/layer.tar".to_owned(), first.to_vec()),
            ("two/layer.tar".to_owned(), tars[1].clone()),
            (name.clone(), config.as_bytes().to_vec()),
            ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ])
    };
    let as_saved = saved(&config, &tars[0]);
    for (name, bytes) in
        [("a.tar", &as_layout), ("b.tar.gz", &gzip(&as_layout)), ("c.tar", &as_saved), ("d.tgz", &gzip(&as_saved))]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        build_on(path.to_str().unwrap(), folder.path()).unwrap();
        is_as_layered(&folder.path().join("image"));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let refused = |bytes: &[u8], tag: &str| {
        fs::write(&path, bytes).unwrap();
        build_on(&format!("{}{tag}", path.display()), folder.path()).unwrap_err().to_string()
    };
    assert!(refused(&saved(&config, &tars[1]), "").contains("was wanted"), "a layer that is another");
    assert!(refused(&saved(&config.replace("linux", "minix"), &tars[0]), "").contains("was wanted"));
    assert!(refused(&as_saved, ":v2").contains("a/b:v1"));
    assert!(refused(&as_layout[..as_layout.len() / 2], "").contains("x.tar"));
    assert!(refused(&archive(&[("etc/passwd".to_owned(), vec![])]), "").contains("neither an index.json"));
    assert!(
        refused(b"no archive at all, whatever it is called, and long enough to be read as one", "").contains("x.tar")
    );
}

#[test]
fn the_image_for_the_agents_architecture_and_the_tag_is_taken() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut image = Image::default();
    let one = |text: &str| [Layer::default().file("which", text)];
    let arm = image.add("arm64", &one("arm"), Packing::Gzip);
    let amd = image.add("amd64", &one("amd"), Packing::Gzip);
    let mut index = image.index(&[arm.clone(), amd.clone()]);
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    let mut other = image.add("amd64", &one("other"), Packing::Gzip);
    other["annotations"] = json!({ "org.opencontainers.image.ref.name": "v2" });
    let base = image.write(&folder.path().join("layout"), &[index, other]);
    for (tag, which) in [("v1", "amd"), ("v2", "other")] {
        let made = build_on(&format!("{base}:{tag}"), folder.path()).unwrap();
        assert_eq!(content(&folder.path().join("image"), "/which"), which);
        assert_eq!(made.base.unwrap().reference, format!("layout:{tag}"));
    }
    for (text, reason) in [(base.clone(), "v1, v2"), (format!("{base}:v3"), "v1, v2")] {
        let error = build_on(&text, folder.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let only_arm = image.write(&folder.path().join("arm"), std::slice::from_ref(&arm));
    let error = build_on(&only_arm, folder.path()).unwrap_err().to_string();
    assert!(error.contains("linux/amd64") && error.contains("linux/arm64"), "{error}");
    let mut silent = arm;
    silent.as_object_mut().unwrap().remove("platform");
    let silent = image.write(&folder.path().join("silent"), &[silent]);
    let error = build_on(&silent, folder.path()).unwrap_err().to_string();
    assert!(error.contains("linux/arm64"), "what says nothing of itself is looked into: {error}");
}

#[test]
fn hostile_layers_are_refused_or_stay_inside() {
    if !tools() {
        return;
    }
    let victim = tempfile::tempdir().unwrap();
    fs::write(victim.path().join("file"), "mine").unwrap();
    let out = victim.path().to_str().unwrap();
    let refused: [(&str, Layer); 10] = [
        ("leads out", Layer::default().file("../evil", "x")),
        ("leads out", Layer::default().file("a/../../evil", "x")),
        ("leads out", Layer::default().file("x", "x").hard("y", "../../x")),
        ("not there", Layer::default().hard("y", &format!("{out}/file"))),
        ("remove no file", Layer::default().file(".wh...", "")),
        ("larger", Layer::default().entry(EntryType::XHeader, "x", "", b"", |header| header.set_size(1 << 40))),
        ("more than", Layer::default().entry(EntryType::Regular, "big", "", b"", |header| header.set_size(1 << 40))),
        ("sparse", Layer::default().entry(EntryType::GNUSparse, "big", "", b"", |_| ())),
        ("kind", Layer::default().entry(EntryType::new(b'V'), "label", "", b"", |_| ())),
        ("told twice", Layer::default().entry(EntryType::XHeader, "x", "", b"12 size=999\n", |_| ()).file("x", "y")),
    ];
    for (reason, layer) in refused {
        let folder = tempfile::tempdir().unwrap();
        let base = layout(folder.path(), &[layer], Packing::Gzip);
        let error = build_on(&base, folder.path()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(!folder.path().join("image").exists());
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "nothing is left of the work");
    }
    let folder = tempfile::tempdir().unwrap();
    let inside = Layer::default()
        .file("/absolute", "a")
        .link("out", out)
        .file("out/file", "theirs")
        .link("up", "../../../../../../../../..")
        .file(&format!("up{out}/file"), "theirs")
        .link("file", &format!("{out}/file"))
        .file("file", "in its place")
        .link("dir", out)
        .folder("dir/")
        .file("dir/.wh.file", "")
        .link("round", "round")
        .file(".wh..", "");
    let base = layout(folder.path(), &[inside], Packing::Gzip);
    let error = build_on(&base, folder.path()).unwrap_err().to_string();
    assert!(error.contains("remove no file"), "{error}");
    let inside = Layer::default()
        .file("/absolute", "a")
        .link("out", out)
        .file("out/file", "theirs")
        .link("up", "../../../../../../../../..")
        .file("up/climbed", "theirs")
        .link("file", &format!("{out}/file"))
        .file("file", "in its place")
        .link("dir", out)
        .folder("dir/")
        .file("out/.wh.file", "");
    let base = layout(folder.path(), &[inside, Layer::default().file("out/.wh.file", "")], Packing::Gzip);
    build_on(&base, folder.path()).unwrap();
    let image = folder.path().join("image");
    assert_eq!(fs::read_to_string(victim.path().join("file")).unwrap(), "mine");
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 1);
    assert_eq!(content(&image, "/absolute"), "a");
    assert_eq!(content(&image, "/climbed"), "theirs");
    assert_eq!(content(&image, "/file"), "in its place");
    assert!(debugfs(&image, "stat /dir").contains("Type: directory"));
    assert!(!is_there(&image, &format!("{out}/file")), "the second layer has removed it, inside");
}

/// A note of pax: its length, which counts itself, the key and the value.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|length| length.to_string().len() + rest == *length).unwrap();
    format!("{length} {key}={value}\n").into_bytes()
}

fn named(name: &str) -> Layer {
    Layer::default().entry(EntryType::XHeader, "x", "", &pax("path", name), |_| ()).file("short", "x")
}

#[test]
fn names_that_are_too_long_or_too_deep_are_refused_at_once() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let refused = |layer: Layer| {
        let base = layout(folder.path(), &[layer], Packing::Gzip);
        let error = build_on(&base, folder.path()).unwrap_err().to_string();
        assert!(error.len() < 3000, "{} bytes are no error that one reads", error.len());
        fs::remove_dir_all(folder.path().join("layout")).unwrap();
        error
    };
    for name in ["d/".repeat(200_000), format!("{}/a", "b".repeat(250)).repeat(5)] {
        let error = refused(named(&name));
        assert!(error.contains("longer than 1024 bytes") && error.contains(&name[..20]), "{error}");
    }
    let error = refused(named(&"d/".repeat(65)));
    assert!(error.contains("deeper than 64") && error.contains("d/d/d"), "{error}");
    // Each name is short; the links in them make them long.
    let half = "d/".repeat(40);
    let linked = || Layer::default().folder(&half).link("l", &half).link("m", &"e/".repeat(49));
    for name in [format!("l/{half}x"), format!("l/{}x", "e/".repeat(24)), format!("m/{}x", "e/".repeat(15))] {
        let error = refused(linked().file(&name, "x"));
        assert!(error.contains("64 parts"), "{name}: {error}");
    }
    let base = layout(folder.path(), &[linked().file(&format!("l/{}x", "e/".repeat(23)), "x")], Packing::Gzip);
    build_on(&base, folder.path()).unwrap();
}

/// Also where no layer says so: what a folder or a script has is not looked at before.
#[test]
fn files_of_a_folder_that_lie_too_deep_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    fs::create_dir_all(base.join("d/".repeat(65))).unwrap();
    let error = build_on(base.to_str().unwrap(), folder.path()).unwrap_err();
    assert!(matches!(error, RootfsError::Deep { .. }), "{error}");
}

#[test]
fn the_longest_and_deepest_names_that_are_allowed_are_in_the_image() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let long = ["\"".repeat(255), "\"".repeat(255), "\"".repeat(255), "\"".repeat(256 - 5)].join("/");
    let deep = format!("{}x", "d/".repeat(63));
    let base = layout(folder.path(), &[named(&long), named(&deep)], Packing::Gzip);
    build_on(&base, folder.path()).unwrap();
    let image = folder.path().join("image");
    assert_eq!(owned(&image, &deep), ("0644".to_owned(), 0, 0));
    assert_eq!(content(&image, &long.replace('"', "\"\"")), "x");
}

#[test]
fn what_an_archive_says_of_one_file_is_read_within_bounds() {
    if !tools() {
        return;
    }
    let mut image = Image::default();
    let manifest = image.add("amd64", &layers(), Packing::Gzip);
    let whole = archive(&image.files(&[manifest]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tar.gz");
    let with = |notes: Layer| {
        let notes = notes.tar();
        fs::write(&path, gzip(&[&notes[..notes.len() - 1024], &whole].concat())).unwrap();
        build_on(path.to_str().unwrap(), folder.path())
    };
    let name = |kind, bytes: &[u8]| Layer::default().entry(kind, "x", "", bytes, |_| ());
    let large = vec![b'a'; 8 << 20];
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let error = with(name(kind, &large)).unwrap_err().to_string();
        assert!(error.contains("larger than any name"), "{error}");
    }
    let error = with(name(EntryType::GNULongName, &large[..2000])).unwrap_err().to_string();
    assert!(error.contains("longer than 1024 bytes"), "{error}");
    let error = with(name(EntryType::XHeader, &pax("size", "1"))).unwrap_err().to_string();
    assert!(error.contains("told twice"), "{error}");
    // Long names that are well are read as before.
    let long = "n".repeat(180);
    with(name(EntryType::GNULongName, long.as_bytes()).file("x", "")).unwrap();
    with(name(EntryType::XHeader, &pax("path", &long)).file("x", "")).unwrap();
    is_as_layered(&folder.path().join("image"));
}

#[test]
fn damaged_pieces_are_told_by_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = Image::default();
    let manifest = image.add("amd64", &[Layer::default().file("a", "b")], Packing::Gzip);
    for (number, digest) in image.blobs.keys().cloned().enumerate() {
        for longer in [false, true] {
            let mut damaged = image.clone();
            let bytes = damaged.blobs.get_mut(&digest).unwrap();
            if longer {
                bytes.push(0)
            } else {
                bytes[20] ^= 1
            }
            let base = damaged.write(&folder.path().join(format!("{number}{longer}")), std::slice::from_ref(&manifest));
            let error = build_on(&base, folder.path()).unwrap_err();
            let told = matches!(error, RootfsError::Digest { .. }) || error.to_string().contains("bytes, and");
            assert!(told, "{error}");
        }
        let mut lacking = image.clone();
        lacking.blobs.remove(&digest);
        let base = lacking.write(&folder.path().join(format!("{number}-")), std::slice::from_ref(&manifest));
        assert!(build_on(&base, folder.path()).unwrap_err().to_string().contains("cannot read"));
    }
    let error = Base::parse("docker:a@md5:00").unwrap_err().to_string();
    assert!(error.contains("reference"), "{error}");
}

#[test]
fn a_layer_that_is_not_what_its_configuration_says_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut image = Image::default();
    let good = Layer::default().file("a", "b");
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "diff_ids": [sha256(b"other")] } });
    let config = image.blob("c", config.to_string().into_bytes());
    let layer = image.blob("l", gzip(&good.tar()));
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let descriptor = image.blob(support::MANIFEST, manifest.to_string().into_bytes());
    let base = image.write(&folder.path().join("layout"), &[descriptor]);
    let error = build_on(&base, folder.path()).unwrap_err();
    assert!(matches!(error, RootfsError::Digest { .. }), "{error}");
}

#[test]
fn openrc_of_the_base_starts_the_agent_when_it_is_asked_to() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let with = |layer: Layer| {
        let base = layout(folder.path(), &[layer], Packing::Gzip);
        let base = Base::parse(&base).unwrap();
        let recipe =
            Recipe { base: Some(base), init_kind: nex_rootfs::InitKind::Openrc, ..recipe(folder.path(), "image") };
        build(&recipe)
    };
    let none = with(Layer::default().file("sbin/init", "x")).unwrap_err().to_string();
    assert!(none.contains("/sbin/openrc") && none.contains("apk add openrc"), "{none}");
    let openrc = || Layer::default().file("sbin/openrc", "x").file("sbin/openrc-run", "x");
    assert!(with(openrc()).unwrap_err().to_string().contains("/sbin/init"));
    let made = with(openrc().link("sbin/init", "/bin/busybox").file("bin/busybox", "x")).unwrap();
    assert_eq!(made.init, nex_rootfs::InitKind::Openrc);
    let image = folder.path().join("image");
    assert!(content(&image, "/etc/init.d/nex-agent").contains("command_args=\"--agent\""));
    assert_eq!(owned(&image, "/etc/init.d/nex-agent").0, "0755");
    let link = |name: &str| debugfs(&image, &format!("stat {name}"));
    assert!(link("/etc/runlevels/default/nex-agent").contains("Fast link dest: \"/etc/init.d/nex-agent\""));
    assert!(link("/usr/libexec/nex-next-init").contains("Fast link dest: \"/sbin/init\""));
}
