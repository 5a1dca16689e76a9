//! Tables for people, lines for programs.
//!
//! On a terminal: a header, aligned columns two blanks apart, colours. Where it is too narrow, columns that may
//! shrink do so first, then the least important ones are left out. In a pipe: one line a row, cells between
//! tabs, no header, nothing shrunk, left out or coloured, so that `cut` and `awk` get everything.

use anstyle::Style;

use crate::style::{Output, clip, heading, visible, width};

/// Blanks between columns.
const GAP: usize = 2;

/// One column.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    title: &'static str,
    right: bool,
    importance: u8,
    least: Option<usize>,
}

impl Column {
    /// A column of text.
    pub const fn left(title: &'static str) -> Column {
        Column { title, right: false, importance: u8::MAX, least: None }
    }

    /// A column of numbers.
    pub const fn right(title: &'static str) -> Column {
        Column { title, right: true, importance: u8::MAX, least: None }
    }

    /// May be left out where it is narrow, those with the lowest number first. Without this it never is.
    pub const fn importance(self, importance: u8) -> Column {
        Column { importance, ..self }
    }

    /// May be cut down to so many columns of the terminal where it is narrow.
    pub const fn shrinks_to(self, least: usize) -> Column {
        Column { least: Some(least), ..self }
    }
}

/// One cell: raw text and its style.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell with a style.
    pub fn styled(text: impl Into<String>, style: Style) -> Cell {
        Cell { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), style: Style::new() }
    }
}

/// Rows under columns.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl Into<Vec<Column>>) -> Table {
        Table { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row. Missing cells are empty; cells beyond the columns are a mistake and not shown.
    pub fn push(&mut self, row: impl Into<Vec<Cell>>) {
        let mut row = row.into();
        debug_assert!(row.len() <= self.columns.len(), "a row has more cells than the table has columns");
        row.resize_with(self.columns.len(), || Cell::from(""));
        for cell in &mut row {
            if let std::borrow::Cow::Owned(shown) = visible(&cell.text) {
                cell.text = shown;
            }
        }
        self.rows.push(row);
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The whole text; every line ends with a newline. Nothing at all where there are no rows.
    pub fn render(&self, output: Output) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        match output {
            Output::Plain => self.rows.iter().map(|row| plain_line(row)).collect(),
            Output::Terminal { columns, .. } => self.render_for_people(output, columns),
        }
    }

    fn render_for_people(&self, output: Output, columns: usize) -> String {
        let shown = self.layout(columns);
        let header: Vec<Cell> = self.columns.iter().map(|column| Cell::styled(column.title, heading())).collect();
        let lines = std::iter::once(&header).chain(&self.rows);
        lines.map(|row| self.line(row, &shown, output)).collect()
    }

    fn line(&self, row: &[Cell], shown: &[(usize, usize)], output: Output) -> String {
        let mut line = String::new();
        for (place, (index, wide)) in shown.iter().enumerate() {
            let cell = &row[*index];
            let text = clip(&cell.text, *wide);
            let blanks = " ".repeat(wide - width(&text).min(*wide));
            let painted = output.paint(cell.style, &text);
            let last = place + 1 == shown.len();
            match self.columns[*index].right {
                true => line.extend([blanks.as_str(), &painted]),
                false if last => line.push_str(&painted),
                false => line.extend([painted.as_str(), &blanks]),
            }
            if !last {
                line.push_str(&" ".repeat(GAP));
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        line
    }

    /// Which columns are shown, by index, and how wide.
    fn layout(&self, columns: usize) -> Vec<(usize, usize)> {
        let natural: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = self.rows.iter().map(|row| width(&row[index].text));
                cells.chain([width(column.title)]).max().unwrap_or(0)
            })
            .collect();
        let least = |index: usize| self.columns[index].least.map_or(natural[index], |least| least.min(natural[index]));
        let total = |shown: &[usize]| shown.iter().map(|index| least(*index) + GAP).sum::<usize>().saturating_sub(GAP);

        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        while total(&shown) > columns {
            // The last of the least important ones goes first.
            let droppable = shown.iter().enumerate().filter(|(_, index)| self.columns[**index].importance < u8::MAX);
            let Some((place, _)) =
                droppable.min_by_key(|(place, index)| (self.columns[**index].importance, usize::MAX - place))
            else {
                break;
            };
            shown.remove(place);
        }
        let mut spare = columns.saturating_sub(total(&shown));
        shown
            .into_iter()
            .map(|index| {
                let more = (natural[index] - least(index)).min(spare);
                spare -= more;
                (index, least(index) + more)
            })
            .collect()
    }
}

/// Names and values under each other, for one thing shown whole: aligned on a terminal, tab-separated in a
/// pipe. Values are never cut.
pub fn render_pairs(pairs: &[(&str, Cell)], output: Output) -> String {
    let wide = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let line = |(name, cell): &(&str, Cell)| {
        let text = visible(&cell.text);
        match output {
            Output::Plain => format!("{name}\t{text}\n"),
            Output::Terminal { .. } => {
                let blanks = " ".repeat(wide - width(name) + GAP);
                let line = format!("{}{blanks}{}", output.paint(heading(), name), output.paint(cell.style, &text));
                format!("{}\n", line.trim_end())
            }
        }
    };
    pairs.iter().map(line).collect()
}

fn plain_line(row: &[Cell]) -> String {
    let cells: Vec<&str> = row.iter().map(|cell| cell.text.as_str()).collect();
    format!("{}\n", cells.join("\t"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::state_style;
    use proptest::prelude::*;

    const COLUMNS: [Column; 4] = [
        Column::right("ID"),
        Column::left("STATE"),
        Column::left("NAME").shrinks_to(6),
        Column::left("AGE").importance(1),
    ];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS);
        table.push([
            Cell::from("7"),
            Cell::styled("failed", state_style("failed")),
            "build the tree".into(),
            "3m ago".into(),
        ]);
        table.push([Cell::from("12"), Cell::from("queued"), "größe 漢字".into(), "now".into()]);
        table
    }

    fn people(columns: usize) -> String {
        table().render(Output::Terminal { columns, colour: false })
    }

    #[test]
    fn a_wide_terminal_shows_all_aligned() {
        let expected = "\
ID  STATE   NAME            AGE
 7  failed  build the tree  3m ago
12  queued  größe 漢字      now
";
        assert_eq!(people(80), expected);
        assert_eq!(people(34), expected);
    }

    #[test]
    fn a_narrow_terminal_shrinks_then_elides() {
        assert_eq!(
            people(30),
            "\
ID  STATE   NAME        AGE
 7  failed  build the…  3m ago
12  queued  größe 漢字  now
"
        );
        assert_eq!(
            people(22),
            "\
ID  STATE   NAME
 7  failed  build the…
12  queued  größe 漢字
"
        );
        // Narrower than what can be done: lines are longer than the terminal, never empty.
        assert!(people(3).contains(" 7  failed  build…"), "{}", people(3));
    }

    #[test]
    fn the_least_important_goes_first_and_the_last_of_equals() {
        let names = |columns: usize| {
            let mut table = Table::new([
                Column::left("AAAA").importance(2),
                Column::left("BBBB").importance(1),
                Column::left("CCCC").importance(1),
                Column::left("DDDD"),
            ]);
            table.push(["a", "b", "c", "d"].map(Cell::from));
            table.render(Output::Terminal { columns, colour: false }).lines().next().unwrap().to_owned()
        };
        for (columns, expected) in
            [(22, "AAAA  BBBB  CCCC  DDDD"), (21, "AAAA  BBBB  DDDD"), (15, "AAAA  DDDD"), (9, "DDDD"), (1, "DDDD")]
        {
            assert_eq!(names(columns), expected);
        }
    }

    #[test]
    fn colours_do_not_move_columns() {
        let coloured = table().render(Output::Terminal { columns: 80, colour: true });
        assert!(coloured.contains("\u{1b}[31mfailed\u{1b}[0m  build"), "{coloured:?}");
        let mut bare = String::new();
        let mut rest = coloured.as_str();
        while let Some(start) = rest.find('\u{1b}') {
            bare.push_str(&rest[..start]);
            rest = &rest[start + rest[start..].find('m').unwrap() + 1..];
        }
        assert_eq!(bare + rest, people(80));
    }

    #[test]
    fn a_pipe_gets_everything_and_nothing_else() {
        assert_eq!(table().render(Output::Plain), "7\tfailed\tbuild the tree\t3m ago\n12\tqueued\tgröße 漢字\tnow\n");
        assert_eq!(Table::new(COLUMNS).render(Output::Plain), "");
        let mut hostile = Table::new(COLUMNS);
        hostile.push(["1", "a\tb", "c\nd\u{1b}[2J"].map(Cell::from));
        assert_eq!(hostile.render(Output::Plain), "1\ta b\tc\\nd\\u{1b}[2J\t\n");
    }

    #[test]
    fn one_thing_is_shown_as_pairs() {
        let pairs = [
            ("id", Cell::from("7")),
            ("outcome", Cell::styled("failed", state_style("failed"))),
            ("cause", Cell::from("")),
        ];
        let terminal = Output::Terminal { columns: 10, colour: false };
        assert_eq!(render_pairs(&pairs, terminal), "id       7\noutcome  failed\ncause\n");
        assert_eq!(render_pairs(&pairs, Output::Plain), "id\t7\noutcome\tfailed\ncause\t\n");
    }

    proptest! {
        #[test]
        fn lines_fit_whenever_they_can(cells in proptest::collection::vec("\\PC{0,20}", 4), columns in 10usize..100) {
            let mut table = Table::new([
                Column::left("A").shrinks_to(3),
                Column::right("B").importance(1),
                Column::left("C").importance(2).shrinks_to(2),
                Column::left("D").importance(1),
            ]);
            table.push(cells.iter().map(|cell| Cell::from(cell.as_str())).collect::<Vec<_>>());
            for line in table.render(Output::Terminal { columns, colour: false }).lines() {
                prop_assert!(width(line) <= columns, "{line:?} in {columns}");
            }
        }
    }
}
