//! An ISO 9660 image with Joliet names, as small as it can be.
//!
//! One directory with a few files. The primary tree has the short upper-case names that ISO 9660
//! wants, the Joliet tree the real ones, which is what Linux shows. Dates are fixed and files
//! sorted, so that equal files give equal bytes.
//!
//! ```text
//! sector 0..15   unused (system area)
//!        16      primary volume descriptor
//!        17      supplementary volume descriptor (Joliet, UCS-2 level 3)
//!        18      terminator
//!        19, 20  path tables of the primary tree, little and big endian
//!        21, 22  path tables of the Joliet tree
//!        23      root directory
//!        24      root directory of the Joliet tree
//!        25..    files
//! ```
//!
//! Source: ECMA-119 (ISO 9660) and the Joliet specification; section numbers in comments are
//! those of ECMA-119.

/// Label of the volume, by which cloud-init finds it.
pub const LABEL: &str = "cidata";

/// Bytes of a sector.
const SECTOR: usize = 2048;

const SYSTEM_SECTORS: usize = 16;
const PATH_TABLE: u32 = 19;
const JOLIET_PATH_TABLE: u32 = 21;
const ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FIRST_FILE: u32 = 25;

/// Bytes of a record of a directory without the name (9.1), rounded to its even length.
const RECORD: usize = 33;

/// Bytes of the path table of one root directory (9.4).
const PATH_TABLE_BYTES: u32 = 10;

/// Files in an image: the seed has three, and all records must fit into one sector.
const FILES_MAX: usize = 8;

/// Characters of a name: what Joliet allows, and what keeps the records in one sector.
const NAME_MAX: usize = 64;

/// Bytes of one file. Bootstrap data comes out of a Secret, which holds at most 1 MiB; sixteen
/// times that leaves room and keeps a seed far from the limits of memory and upload.
const FILE_MAX: usize = 16 << 20;

/// 1980-01-01 00:00:00 UTC: years since 1900, month, day, hour, minute, second, zone (9.1.5).
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];

/// "Not specified" for the dates of a volume (8.4.26.1).
const NO_DATE: [u8; 17] = *b"0000000000000000\0";

/// Flag of a record that is a directory (9.1.6).
const DIRECTORY: u8 = 2;

/// Why an image could not be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Too many files.
    #[error("write the seed image: {count} files, and it holds at most {FILES_MAX}")]
    TooManyFiles {
        /// How many.
        count: usize,
    },
    /// A name that would not be the same on every system.
    #[error(
        "write the seed image: file name {name:?} must have 1 to {NAME_MAX} letters, digits, \
         hyphens, dots or underscores and be unlike the others"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A file that is too large.
    #[error("write the seed image: {name} has {size} bytes, and at most {FILE_MAX} are allowed")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: usize,
    },
}

/// One file and its place.
struct Entry<'a> {
    name: &'a str,
    bytes: &'a [u8],
    sector: u32,
}

/// Which of the two trees is written.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Tree {
    Primary,
    Joliet,
}

/// Writes an image labelled [`LABEL`] with `files`, in any order.
///
/// # Errors
///
/// If there are too many files, one is too large, or a name is not portable.
pub fn image(files: &[(&str, &[u8])]) -> Result<Vec<u8>, ImageError> {
    let (entries, sectors) = arrange(files)?;
    let mut image = vec![0; SYSTEM_SECTORS * SECTOR];
    let blocks = [
        volume(Tree::Primary, sectors),
        volume(Tree::Joliet, sectors),
        terminator(),
        path_table(ROOT.to_le_bytes(), 1_u16.to_le_bytes()),
        path_table(ROOT.to_be_bytes(), 1_u16.to_be_bytes()),
        path_table(JOLIET_ROOT.to_le_bytes(), 1_u16.to_le_bytes()),
        path_table(JOLIET_ROOT.to_be_bytes(), 1_u16.to_be_bytes()),
        directory(Tree::Primary, ROOT, &entries),
        directory(Tree::Joliet, JOLIET_ROOT, &entries),
    ];
    for block in blocks
        .iter()
        .map(Vec::as_slice)
        .chain(entries.iter().map(|entry| entry.bytes))
    {
        image.extend_from_slice(block);
        image.resize(image.len().next_multiple_of(SECTOR), 0);
    }
    Ok(image)
}

/// Sorts the files, checks them, and gives each its sectors. Returns the length of the image, too.
fn arrange<'a>(files: &[(&'a str, &'a [u8])]) -> Result<(Vec<Entry<'a>>, u32), ImageError> {
    if files.len() > FILES_MAX {
        return Err(ImageError::TooManyFiles { count: files.len() });
    }
    let mut files = files.to_vec();
    files.sort_unstable_by_key(|(name, _)| short_name(name));
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(files.len());
    let mut sector = FIRST_FILE;
    for (name, bytes) in files {
        let portable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let fits = (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(portable);
        let last = entries.last().map(|entry| short_name(entry.name));
        if !fits || last == Some(short_name(name)) {
            return Err(ImageError::Name {
                name: name.to_owned(),
            });
        }
        let length = (bytes.len() <= FILE_MAX).then(|| size(bytes.len().div_ceil(SECTOR)));
        let Some(length) = length else {
            return Err(ImageError::TooLarge {
                name: name.to_owned(),
                size: bytes.len(),
            });
        };
        entries.push(Entry {
            name,
            bytes,
            sector,
        });
        sector += length;
    }
    Ok((entries, sector))
}

/// The name in the primary tree: upper case, no hyphens, at most 30 characters (7.5), with the
/// version that every file has.
fn short_name(name: &str) -> String {
    let letter = |char: char| {
        if char == '-' {
            '_'
        } else {
            char.to_ascii_uppercase()
        }
    };
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let stem: String = stem
        .chars()
        .map(|char| if char == '.' { '_' } else { letter(char) })
        .collect();
    let extension: String = extension.chars().map(letter).take(8).collect();
    let stem: String = stem.chars().take(21).collect();
    format!("{stem}.{extension};1")
}

/// A volume descriptor (8.4, 8.5).
fn volume(tree: Tree, sectors: u32) -> Vec<u8> {
    let (kind, root, path_table) = match tree {
        Tree::Primary => (1, ROOT, PATH_TABLE),
        Tree::Joliet => (2, JOLIET_ROOT, JOLIET_PATH_TABLE),
    };
    let mut block = Vec::with_capacity(SECTOR);
    block.extend([kind]);
    block.extend(b"CD001\x01\0");
    block.extend(padded(tree, "", 32));
    block.extend(padded(tree, LABEL, 32));
    block.extend([0; 8]);
    block.extend(both(sectors));
    // Escape sequence that announces UCS-2 level 3 (8.5.6, Joliet).
    let escape: &[u8] = if tree == Tree::Joliet { b"%/E" } else { b"" };
    block.extend(escape);
    block.resize(120, 0);
    block.extend(both_short(1));
    block.extend(both_short(1));
    block.extend(both_short(
        u16::try_from(SECTOR).expect("a sector is 2048 bytes"),
    ));
    block.extend(both(PATH_TABLE_BYTES));
    block.extend(path_table.to_le_bytes());
    block.extend([0; 4]);
    block.extend((path_table + 1).to_be_bytes());
    block.extend([0; 4]);
    block.extend(record(&[0], root, size(SECTOR), DIRECTORY));
    // Volume set, publisher, preparer, application; then three names of files.
    for _ in 0..4 {
        block.extend(padded(tree, "", 128));
    }
    for _ in 0..3 {
        block.extend(padded(tree, "", 37));
    }
    for _ in 0..4 {
        block.extend(NO_DATE);
    }
    block.extend([1, 0]);
    block
}

/// A text in a field of `length` bytes, filled with blanks.
fn padded(tree: Tree, text: &str, length: usize) -> Vec<u8> {
    let mut field = encode(tree, text);
    while field.len() < length {
        field.extend(encode(tree, " "));
    }
    // Fields of odd length end in half a character.
    field.truncate(length);
    if tree == Tree::Joliet && length % 2 == 1 {
        field[length - 1] = 0;
    }
    field
}

/// A text as bytes of a tree.
fn encode(tree: Tree, text: &str) -> Vec<u8> {
    match tree {
        Tree::Primary => text.as_bytes().to_vec(),
        Tree::Joliet => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    }
}

/// The descriptor that ends the set (8.3).
fn terminator() -> Vec<u8> {
    b"\xffCD001\x01".to_vec()
}

/// A path table with the root alone (9.4).
fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    [&[1, 0][..], &root, &parent, &[0, 0]].concat()
}

/// A directory: itself, its parent, which is itself too, and the files (6.8).
fn directory(tree: Tree, root: u32, entries: &[Entry<'_>]) -> Vec<u8> {
    let mut block = record(&[0], root, size(SECTOR), DIRECTORY);
    block.extend(record(&[1], root, size(SECTOR), DIRECTORY));
    let name = |entry: &Entry<'_>| match tree {
        Tree::Primary => encode(tree, &short_name(entry.name)),
        Tree::Joliet => encode(tree, entry.name),
    };
    let mut named: Vec<_> = entries.iter().map(|entry| (name(entry), entry)).collect();
    // Both trees are sorted by their own names (9.3).
    named.sort_unstable_by(|(first, _), (second, _)| first.cmp(second));
    for (name, entry) in named {
        block.extend(record(&name, entry.sector, size(entry.bytes.len()), 0));
    }
    block
}

/// A record of a directory (9.1).
fn record(name: &[u8], sector: u32, bytes: u32, flags: u8) -> Vec<u8> {
    let length = (RECORD + name.len()).next_multiple_of(2);
    let mut record = Vec::with_capacity(length);
    record.extend([short(length), 0]);
    record.extend(both(sector));
    record.extend(both(bytes));
    record.extend(DATE);
    record.extend([flags, 0, 0]);
    record.extend(both_short(1));
    record.extend([short(name.len())]);
    record.extend(name);
    record.resize(length, 0);
    record
}

/// A number in both byte orders (7.3.3).
fn both(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// A short number in both byte orders (7.2.3).
fn both_short(number: u16) -> [u8; 4] {
    let mut bytes = [0; 4];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("files are at most 16 MiB")
}

fn short(bytes: usize) -> u8 {
    u8::try_from(bytes).expect("names have at most 64 characters, of two bytes each")
}

#[cfg(test)]
mod tests;
