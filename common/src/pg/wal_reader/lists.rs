//! The lists in a record, walked over as its bytes pass: a record of a gigabyte with millions of items takes no memory.

use super::at_most;
use super::changes::locator;
use super::kinds::Listed;
use crate::pg::bytes::u32_at;

/// Holds a count, a number and the largest item that is told, a `RelFileLocator`.
const FIELD_MAX: usize = 12;
/// A count, and the number behind the lists.
const COUNT_SIZE: usize = 4;

/// One list: a count, then so many items.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    /// Bytes between the count and the items.
    pub(super) gap: u64,
    pub(super) items: Items,
}

/// What a list holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Items {
    /// Items of this size that are passed over.
    Any(u64),
    Relations,
    Tablespaces,
    Tables,
    Subtransactions,
    Mappings,
}

impl Items {
    fn size(self) -> u64 {
        match self {
            Self::Any(size) => size,
            Self::Relations => 12,
            Self::Tablespaces | Self::Tables | Self::Subtransactions => 4,
            Self::Mappings => 8,
        }
    }

    fn listed(self, field: &[u8]) -> Option<Listed> {
        match self {
            Self::Any(_) => None,
            Self::Relations => locator(field, 0).map(Listed::Relation),
            Self::Tablespaces => u32_at(field, 0).map(Listed::Tablespace),
            Self::Tables => u32_at(field, 0).map(Listed::Table),
            Self::Subtransactions => u32_at(field, 0).map(Listed::Subtransaction),
            Self::Mappings => Some(Listed::Mapping { catalog: u32_at(field, 0)?, relnumber: u32_at(field, 4)? }),
        }
    }
}

/// A walk over lists that follow one another, and to the number behind them, if there is one.
#[derive(Debug)]
pub(super) struct Walk {
    /// Still to come, last first.
    lists: Vec<List>,
    has_number: bool,
    next: Next,
    /// Where the next field begins.
    position: u64,
    field: [u8; FIELD_MAX],
    field_held: usize,
}

/// The field that comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// The count of this list.
    Count(List),
    /// One of the items, with so many to come.
    Item(Items, u32),
    /// The number behind all lists.
    Number,
    /// None: all was seen.
    Nothing { number: Option<u32> },
}

impl Walk {
    /// Over these lists, given last first, of which the first to come begins at `position`.
    pub(super) fn new(position: u64, lists: Vec<List>, has_number: bool) -> Self {
        let next = Next::Nothing { number: None };
        let mut walk = Self { lists, has_number, next, position, field: [0; FIELD_MAX], field_held: 0 };
        walk.next = walk.behind_list();
        walk
    }

    /// The number, once it was seen.
    pub(super) fn number(&self) -> Option<u32> {
        if let Next::Nothing { number } = self.next { number } else { None }
    }

    /// Whether everything that was announced lies before `end`.
    pub(super) fn is_complete(&self, end: u64) -> bool {
        matches!(self.next, Next::Nothing { .. }) && self.position <= end
    }

    /// Takes the bytes from `offset` on, which follow those of the call before, and tells the items that are whole.
    pub(super) fn feed(&mut self, offset: u64, bytes: &[u8], listed: &mut Vec<Listed>) {
        while let Some((field, size)) = self.gather(offset, bytes) {
            self.field_held = 0;
            self.position = self.position.saturating_add(size as u64);
            let value = u32_at(&field, 0).unwrap_or(0);
            self.next = match self.next {
                Next::Count(List { gap, items: Items::Any(item) }) => {
                    self.position = self.position.saturating_add(gap + u64::from(value) * item);
                    self.behind_list()
                }
                Next::Count(List { gap, items }) => {
                    self.position = self.position.saturating_add(gap);
                    self.item(items, value)
                }
                Next::Item(items, left) => {
                    listed.extend(items.listed(&field));
                    self.item(items, left - 1)
                }
                Next::Number | Next::Nothing { .. } => Next::Nothing { number: Some(value) },
            };
        }
    }

    /// The next field, when `bytes` hold its end, and its size.
    fn gather(&mut self, offset: u64, bytes: &[u8]) -> Option<([u8; FIELD_MAX], usize)> {
        let size = match self.next {
            Next::Count(_) | Next::Number => COUNT_SIZE,
            Next::Item(items, _) => usize::try_from(items.size()).ok()?,
            Next::Nothing { .. } => return None,
        };
        let from = self.position.saturating_add(self.field_held as u64).checked_sub(offset)?;
        let piece = bytes.get(usize::try_from(from).ok()?..)?;
        let room = self.field.get_mut(self.field_held..size)?;
        self.field_held += at_most(piece, room.len() as u64).len();
        room.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
        (self.field_held == size).then_some((self.field, size))
    }

    /// So many items come next.
    fn item(&mut self, items: Items, left: u32) -> Next {
        if left > 0 { Next::Item(items, left) } else { self.behind_list() }
    }

    /// What comes behind a list, or before the first.
    fn behind_list(&mut self) -> Next {
        match self.lists.pop() {
            Some(list) => Next::Count(list),
            None if self.has_number => Next::Number,
            None => Next::Nothing { number: None },
        }
    }
}
