//! Addresses that stand for names, as long as the instance lives.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// The first of the gate's range that is given to a name.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
/// Names that are remembered. One that was given an address keeps it: programs remember it, too.
const MOST: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Book {
    names: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
}

impl Book {
    /// The address that stands for a name; `None` when the book is full.
    pub(super) fn enter(&mut self, name: &str) -> Option<Ipv4Addr> {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None if self.names.len() >= MOST => return None,
            None => {
                let name: Arc<str> = name.into();
                self.places.insert(Arc::clone(&name), self.names.len());
                self.names.push(name);
                self.names.len() - 1
            }
        };
        Some(Ipv4Addr::from_bits(FIRST.to_bits() + u32::try_from(place).ok()?))
    }

    /// The name that an address stands for.
    pub(super) fn find(&self, address: Ipv4Addr) -> Option<Arc<str>> {
        let place = address.to_bits().checked_sub(FIRST.to_bits())?;
        self.names.get(usize::try_from(place).ok()?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_address_and_the_book_has_an_end() {
        let mut book = Book::default();
        let one = book.enter("one.test").unwrap();
        let two = book.enter("two.test").unwrap();
        assert_ne!(one, two);
        assert_eq!(book.enter("one.test"), Some(one));
        assert_eq!(book.find(two).as_deref(), Some("two.test"));
        assert_eq!(book.find(Ipv4Addr::new(198, 18, 0, 1)), None);
        for at in 2..MOST {
            assert!(book.enter(&at.to_string()).is_some());
        }
        assert_eq!(book.enter("more.test"), None);
        let last = book.enter(&(MOST - 1).to_string()).unwrap();
        assert!(last < Ipv4Addr::new(198, 20, 0, 0), "{last} is in the range");
    }
}
