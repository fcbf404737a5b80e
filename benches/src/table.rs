//! Formats Markdown tables, aligned to be readable as plain text. Fewer lines than the settings that a crate for
//! tables would need for this format.

/// Returns a table. The first `left` columns are aligned to the left, the others to the right.
pub(crate) fn markdown(head: &[&str], left: usize, rows: &[Vec<String>]) -> String {
    let width = |n: usize| {
        let cells = rows.iter().filter_map(|row| row.get(n)).map(|it| it.chars().count());
        cells.chain([head[n].chars().count(), 4]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let padded = |cell: &str, n: usize| {
        let width = widths[n];
        if n < left { format!("{cell:width$}") } else { format!("{cell:>width$}") }
    };
    let rule = |(n, width): (usize, &usize)| {
        if n < left { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
    };
    let mut text = line(head.iter().enumerate().map(|(n, it)| padded(it, n)).collect());
    text += &line(widths.iter().enumerate().map(rule).collect());
    for row in rows {
        text += &line(row.iter().enumerate().map(|(n, it)| padded(it, n)).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["submit".to_owned(), "1.5 ×".to_owned()]];
        assert_eq!(
            markdown(&["operation", "ratio"], 1, &rows),
            "| operation | ratio |\n| --------- | ----: |\n| submit    | 1.5 × |\n"
        );
    }
}
