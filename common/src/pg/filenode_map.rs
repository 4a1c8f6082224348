//! `pg_filenode.map`: which files the catalogs have that cannot be looked up in `pg_class`
//! (`src/backend/utils/cache/relmapper.c`).

use super::bytes::u32_at;

/// `RELMAPPER_FILEMAGIC`.
const MAGIC: u32 = 0x0059_2717;
/// `MAX_MAPPINGS`: 62 before version 16.
const MAPPINGS_MAX: [usize; 2] = [64, 62];
const HEAD_SIZE: usize = 8;
const MAPPING_SIZE: usize = 8;
const CRC_SIZE: usize = 4;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilenodeMap(Vec<(u32, u32)>);

impl FilenodeMap {
    /// Reads the file; `None` for contents that no server of the versions 14 to 18 writes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let count = usize::try_from(u32_at(bytes, 4)?).ok().filter(|_| u32_at(bytes, 0) == Some(MAGIC))?;
        let is_right = |max: &&usize| {
            let end = HEAD_SIZE + **max * MAPPING_SIZE;
            // Versions before 16 pad it to 512 bytes.
            let has_size = bytes.len() == (end + CRC_SIZE).max(512);
            has_size && count <= **max && bytes.get(..end).map(crc32c::crc32c) == u32_at(bytes, end)
        };
        MAPPINGS_MAX.iter().find(is_right)?;
        let mapping = |number: usize| {
            let at = HEAD_SIZE + number * MAPPING_SIZE;
            Some((u32_at(bytes, at)?, u32_at(bytes, at + 4)?))
        };
        (0..count).map(mapping).collect::<Option<_>>().map(Self)
    }

    /// The catalogs by their object ids, and the number in the names of each one's files.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn file(max: usize, mappings: &[(u32, u32)]) -> Vec<u8> {
        let mut bytes = [MAGIC.to_ne_bytes(), u32::try_from(mappings.len()).unwrap().to_ne_bytes()].concat();
        bytes.extend(mappings.iter().flat_map(|(oid, number)| [oid.to_ne_bytes(), number.to_ne_bytes()].concat()));
        bytes.resize(HEAD_SIZE + max * MAPPING_SIZE, 0);
        bytes.extend(crc32c::crc32c(&bytes).to_ne_bytes());
        bytes.resize(bytes.len().max(512), 0);
        bytes
    }

    #[rstest]
    #[case::until_15(62, 512)]
    #[case::since_16(64, 524)]
    fn both_sizes_are_read(#[case] max: usize, #[case] size: usize) {
        let mut bytes = file(max, &[(1259, 16_400), (1249, 1249)]);
        assert_eq!(bytes.len(), size);
        let map = FilenodeMap::parse(&bytes).unwrap();
        assert_eq!(map.iter().collect::<Vec<_>>(), [(1259, 16_400), (1249, 1249)]);
        assert_eq!(FilenodeMap::parse(&bytes[..size - 1]), None);
        bytes[9] ^= 1;
        assert_eq!(FilenodeMap::parse(&bytes), None, "a wrong checksum");
    }

    #[test]
    fn more_mappings_than_there_is_room_for_are_refused() {
        let mut bytes = file(62, &[]);
        bytes[4] = 63;
        let end = HEAD_SIZE + 62 * MAPPING_SIZE;
        let crc = crc32c::crc32c(&bytes[..end]).to_ne_bytes();
        bytes[end..end + 4].copy_from_slice(&crc);
        assert_eq!(FilenodeMap::parse(&bytes), None);
    }

    proptest! {
        #[test]
        fn mappings_read_back(mappings in proptest::collection::btree_map(any::<u32>(), any::<u32>(), 0..62)) {
            let mappings: Vec<_> = mappings.into_iter().collect();
            prop_assert_eq!(FilenodeMap::parse(&file(64, &mappings)).unwrap().0, mappings);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(FilenodeMap::parse(&bytes), None);
        }
    }
}
