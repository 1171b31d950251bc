//! The largest things of a tree as text: a folder is opened only as long as what is in it matters.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::bars::{Style, harmless, size, total};

/// What has less than this part of the whole is not shown by itself.
const SMALLEST_SHARE: u64 = 40;
/// Deeper folders stay closed.
const DEEPEST: usize = 6;

/// A folder with the sizes below it.
#[derive(Debug, Default)]
struct Node {
    bytes: u64,
    children: BTreeMap<String, Node>,
}

/// Renders files (path with `/`, size) as a tree with bars, largest first.
pub fn render<'a>(files: impl IntoIterator<Item = (&'a str, u64)>, style: Style) -> String {
    let mut root = Node::default();
    for (path, bytes) in files {
        root.bytes = root.bytes.saturating_add(bytes);
        let mut node = &mut root;
        // Whatever the path holds, the tree stays shallow enough to walk.
        for part in path.split('/').filter(|part| !part.is_empty()).take(DEEPEST) {
            node = node.children.entry(part.to_owned()).or_default();
            node.bytes = node.bytes.saturating_add(bytes);
        }
    }
    let mut text = String::new();
    show(&root, root.bytes, 0, style, &mut text);
    text
}

fn show(node: &Node, whole: u64, depth: usize, style: Style, text: &mut String) {
    let mut children: Vec<(&String, &Node)> = node.children.iter().collect();
    children.sort_by(|a, b| b.1.bytes.cmp(&a.1.bytes).then(a.0.cmp(b.0)));
    let limit = whole / SMALLEST_SHARE;
    let (large, small): (Vec<_>, Vec<_>) = children.into_iter().partition(|(_, child)| child.bytes > limit);
    for (name, child) in large {
        let (name, child) = joined(name, child);
        line(&name, child.bytes, whole, depth, style, text);
        show(child, whole, depth + 1, style, text);
    }
    // A closed folder says nothing; beside something shown, what is left is counted.
    let rest = total(small.iter().map(|(_, child)| child.bytes));
    if small.len() < node.children.len() && rest > limit / 4 {
        line(&format!("{} smaller", small.len()), rest, whole, depth, style, text);
    }
}

/// Folders with one child are one line: `usr/lib/modules`.
fn joined<'a>(name: &str, mut node: &'a Node) -> (String, &'a Node) {
    let mut name = harmless(name);
    while let Some((only, child)) = node.children.first_key_value().filter(|_| node.children.len() == 1) {
        name = format!("{name}/{}", harmless(only));
        node = child;
    }
    (name, node)
}

fn line(name: &str, bytes: u64, whole: u64, depth: usize, style: Style, text: &mut String) {
    let columns = (style.width / 4).clamp(5, 40);
    let names = style.width.saturating_sub(columns + 18).max(10);
    let label = format!("{}{name}", "  ".repeat(depth));
    let share = (u128::from(bytes) * 100).checked_div(u128::from(whole)).unwrap_or(0);
    let _ = writeln!(
        text,
        "{label:<names$} {:>9} {share:>3} % {}",
        size(bytes),
        style.paint("36", &style.bar(bytes, whole, columns))
    );
}
