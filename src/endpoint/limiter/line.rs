//! A first-come-first-served line whose members may leave from anywhere in it, each step at constant cost.

use std::collections::VecDeque;

/// Who came when; the head is who came first of those still here.
#[derive(Debug)]
pub struct Line<T> {
    /// Those who left from the middle leave a gap, closed when it comes to the front.
    places: VecDeque<Option<T>>,
    /// Number of the place at the front.
    front: u64,
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl<T> Default for Line<T> {
    fn default() -> Self {
        Line { places: VecDeque::new(), front: 0, len: 0 }
    }
}

impl<T> Line<T> {
    pub fn join(&mut self, who: T) -> Place {
        self.places.push_back(Some(who));
        self.len += 1;
        Place(self.front + self.places.len() as u64 - 1)
    }

    /// True where the head left, so that there is another head now.
    pub fn leave(&mut self, place: Place) -> bool {
        let was_head = self.is_head(place);
        let at = place.0.checked_sub(self.front).and_then(|at| usize::try_from(at).ok());
        if let Some(slot) = at.and_then(|at| self.places.get_mut(at))
            && slot.take().is_some()
        {
            self.len -= 1;
        }
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.front += 1;
        }
        was_head
    }

    #[must_use]
    pub fn is_head(&self, place: Place) -> bool {
        place.0 == self.front && !self.places.is_empty()
    }

    #[must_use]
    pub fn head(&self) -> Option<&T> {
        self.places.front()?.as_ref()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_whoever_leaves() {
        let mut line = Line::default();
        let places: Vec<_> = (0..5).map(|n| line.join(n)).collect();
        assert!(!line.leave(places[1]), "1 was in the middle");
        assert!(!line.leave(places[1]), "and left only once");
        assert_eq!((line.len(), line.head()), (4, Some(&0)));
        assert!(line.leave(places[0]));
        assert_eq!(line.head(), Some(&2));
        assert!(line.is_head(places[2]) && !line.is_head(places[0]));
        for place in &places[2..] {
            assert!(line.leave(*place));
        }
        assert_eq!((line.len(), line.head()), (0, None));
        let again = line.join(9);
        assert!(line.is_head(again) && !line.leave(places[4]));
        assert_eq!(line.len(), 1);
    }
}
