//! Lists of which thousands of episodes have some each.

/// Items that a list grows by: doubled, those of thousands of episodes would be a quarter empty.
const GROWTH: usize = 16;

/// Puts an item into a list that has room for few more.
pub fn push_tight<T>(list: &mut Vec<T>, item: T) {
    if list.len() == list.capacity() {
        list.reserve_exact(GROWTH);
    }
    list.push(item);
}
