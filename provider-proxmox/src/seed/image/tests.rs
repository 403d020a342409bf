use std::io::Cursor;

use capi_testkit::guest::read_iso;
use hadris_iso::read::{IsoReader, IsoRoot};

use super::*;

const FILES: [(&str, &[u8]); 3] = [
    ("user-data", &[b'u'; 5000]),
    ("meta-data", b"m"),
    ("network-config", b""),
];

fn read(reader: &mut IsoReader<Cursor<&[u8]>>, root: IsoRoot, path: &str) -> Vec<u8> {
    let entry = reader
        .find_path_in(root, path)
        .unwrap()
        .expect("the file is there");
    let mut file = reader.open_file(&entry).unwrap();
    let (mut bytes, mut chunk) = (Vec::new(), [0; 512]);
    loop {
        match file.read_chunk(&mut chunk).unwrap() {
            0 => return bytes,
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

/// An independent reader finds the files in both trees.
#[test]
fn another_reader_finds_the_files_in_both_trees() {
    let image = image(&FILES).unwrap();
    let mut reader = IsoReader::open(Cursor::new(image.as_slice())).unwrap();
    let (primary, joliet) = (reader.primary_root(), reader.joliet_root().expect("Joliet"));
    for (name, bytes) in FILES {
        assert_eq!(read(&mut reader, joliet, name), bytes, "{name}");
        let short = short_name(name);
        let short = short.trim_end_matches(";1");
        assert_eq!(read(&mut reader, primary, short), bytes, "{name}");
    }
}

/// The simulated guest finds label and files as a Linux guest would.
#[test]
fn a_guest_finds_label_and_files() {
    let image = image(&FILES).unwrap();
    let (label, files) = read_iso(&image.into()).unwrap();
    let found: Vec<(&str, &[u8])> = files
        .iter()
        .map(|file| (file.path.as_str(), file.bytes.as_ref()))
        .collect();
    assert_eq!(label, LABEL);
    assert_eq!(found, [FILES[1], FILES[2], FILES[0]]);
}

#[test]
fn the_size_is_what_the_descriptors_say() {
    let image = image(&FILES).unwrap();
    // 25 sectors of structure, one for the meta-data, none for the empty file, three for the rest.
    assert_eq!(image.len(), (25 + 1 + 3) * SECTOR);
    for descriptor in [16, 17] {
        let space = &image[descriptor * SECTOR + 80..][..8];
        assert_eq!(space, both(29), "descriptor {descriptor}");
    }
}

#[test]
fn order_does_not_count_and_content_does() {
    let mut reversed = FILES;
    reversed.reverse();
    assert_eq!(image(&FILES), image(&reversed));
    reversed[1].1 = b"n";
    assert_ne!(image(&FILES), image(&reversed));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let many = [("a", &b""[..]); FILES_MAX + 1];
    assert_eq!(
        image(&many),
        Err(ImageError::TooManyFiles {
            count: FILES_MAX + 1
        })
    );
    let long = "x".repeat(NAME_MAX + 1);
    for name in ["", "a/b", "ä", long.as_str()] {
        assert_eq!(
            image(&[(name, b"")]),
            Err(ImageError::Name {
                name: name.to_owned()
            })
        );
    }
    let twice = image(&[("user-data", b""), ("USER_DATA", b"")]);
    assert!(matches!(twice, Err(ImageError::Name { .. })), "{twice:?}");
    let large = vec![0; FILE_MAX + 1];
    let refused = image(&[("user-data", &large)]);
    assert_eq!(
        refused,
        Err(ImageError::TooLarge {
            name: "user-data".into(),
            size: FILE_MAX + 1
        })
    );
}

#[test]
fn short_names_are_those_of_iso_9660() {
    for (name, expected) in [
        ("meta-data", "META_DATA.;1"),
        ("a.b.txt", "A_B.TXT;1"),
        (
            "a-very-long-name-that-goes-on.extension",
            "A_VERY_LONG_NAME_THAT.EXTENSIO;1",
        ),
    ] {
        assert_eq!(short_name(name), expected);
    }
}

/// The largest directory stays within its one sector, in both trees.
#[test]
fn a_full_directory_fits_into_its_sector() {
    let names: Vec<String> = (0..FILES_MAX)
        .map(|number| format!("{number}{}", "x".repeat(NAME_MAX - 1)))
        .collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), name.as_bytes()))
        .collect();
    let image = image(&files).unwrap();
    assert_eq!(image.len(), (25 + FILES_MAX) * SECTOR);
    let (_, found) = read_iso(&image.into()).unwrap();
    assert_eq!(found.len(), FILES_MAX);
}
