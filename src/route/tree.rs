//! A tree of labels (host labels, path segments). Looking up costs what the labels cost, not what the tree holds.

use std::collections::HashMap;

/// A node and all below it. As deep as the longest pattern of the config.
#[derive(Default)]
pub(super) struct Tree<T> {
    value: T,
    children: HashMap<Box<str>, Self>,
}

impl<T: Default> Tree<T> {
    /// The value at the end of these labels, made where it is missing.
    pub(super) fn entry<'k>(&mut self, mut labels: impl Iterator<Item = &'k str>) -> &mut T {
        match labels.next() {
            None => &mut self.value,
            Some(label) => self.children.entry(label.into()).or_default().entry(labels),
        }
    }
}

impl<T> Tree<T> {
    /// Visits the values along the labels, the deepest first, until one gives a response.
    /// `visit` gets the value and the next label, `None` where the labels end.
    pub(super) fn deepest<'t, 'k, R>(
        &'t self,
        mut labels: impl Iterator<Item = &'k str>,
        visit: &mut impl FnMut(&'t T, Option<&'k str>) -> Option<R>,
    ) -> Option<R> {
        self.descend(&mut labels, visit)
    }

    fn descend<'t, 'k, R>(
        &'t self,
        labels: &mut impl Iterator<Item = &'k str>,
        visit: &mut impl FnMut(&'t T, Option<&'k str>) -> Option<R>,
    ) -> Option<R> {
        let label = labels.next();
        let child = label.and_then(|label| self.children.get(label));
        let deeper = child.and_then(|child| child.descend(labels, visit));
        deeper.or_else(|| visit(&self.value, label))
    }
}
