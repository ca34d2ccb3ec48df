//! Columns of text for a terminal of 80 columns.

/// Columns of the narrowest terminal that is thought of.
const WIDTH: usize = 80;
/// A longer first cell stands on a line of its own.
const MAX_NAME: usize = 20;
/// What notes begin with.
const INDENT: &str = "  ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows below a heading; below each row its notes.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<(Vec<String>, Vec<String>)>,
}

impl Table {
    pub fn new(heading: &[(&str, Align)]) -> Self {
        let names = heading.iter().map(|(name, _)| (*name).to_owned()).collect();
        Self { columns: heading.iter().map(|(_, align)| *align).collect(), rows: vec![(names, Vec::new())] }
    }

    pub fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push((cells, notes));
    }

    /// One line for each row, and one for each note.
    pub fn text(&self) -> String {
        let width = |column: usize| {
            let lens = self.rows.iter().filter_map(|(cells, _)| cells.get(column)).map(|cell| len(cell));
            let fitting = lens.filter(|len| column > 0 || *len <= MAX_NAME);
            fitting.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        // Two blanks between columns, or one where it must be.
        let total: usize = widths.iter().sum();
        let gap = if total + 2 * (widths.len() - 1) <= WIDTH { "  " } else { " " };
        let mut text = String::new();
        for (cells, notes) in &self.rows {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let missing = widths[column].saturating_sub(len(cell));
                if column == 0 && len(cell) > widths[0] {
                    text.push_str(&format!("{cell}\n"));
                    line.push_str(&" ".repeat(widths[0]));
                    continue;
                }
                line.push_str(if column > 0 { gap } else { "" });
                match self.columns[column] {
                    Align::Left => line.push_str(&format!("{cell}{}", " ".repeat(missing))),
                    Align::Right => line.push_str(&format!("{}{cell}", " ".repeat(missing))),
                }
            }
            text.push_str(&format!("{}\n", line.trim_end()));
            notes.iter().for_each(|note| text.push_str(&format!("{INDENT}{note}\n")));
        }
        text
    }
}

/// A note that fits into its line.
pub fn cut(note: &str) -> String {
    match note.char_indices().nth(WIDTH - INDENT.len()) {
        None => note.to_owned(),
        Some(_) => note.chars().take(WIDTH - INDENT.len() - 1).chain(['…']).collect(),
    }
}

fn len(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let mut table = Table::new(&[("name", Align::Left), ("size", Align::Right), ("has", Align::Left)]);
        table.row(vec!["é".into(), "12.0 kB".into(), "q v".into()], vec!["fits engine".into()]);
        table.row(vec!["a-name-of-more-than-twenty".into(), "1".into(), "-".into()], vec![]);
        let wanted = "\
name     size  has
é     12.0 kB  q v
  fits engine
a-name-of-more-than-twenty
            1  -
";
        assert_eq!(table.text(), wanted);
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        assert_eq!(cut(&"é".repeat(78)), "é".repeat(78));
        let long = cut(&"é".repeat(79));
        assert!(long.ends_with("é…") && long.chars().count() == 78, "{long}");
        // The widest values that an engine has.
        let cells = [
            "a-name-of-twenty-char",
            "qwen3_moe",
            "stored",
            "999.9 MB",
            "4096",
            "67108864",
            "67108864",
            "4096",
            "yes",
        ];
        let heading = ["engine", "family", "weights", "size", "batch", "input", "KV", "rank", "served"];
        let mut table = Table::new(&heading.map(|name| (name, Align::Left)));
        table.row(cells.map(str::to_owned).to_vec(), vec![]);
        assert!(table.text().lines().all(|line| line.chars().count() <= 80), "{}", table.text());
    }
}
