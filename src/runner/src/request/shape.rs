//! How many things a JSON text makes, without reading it.

/// Of what there may be many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Objects; what stands within a text is none.
    pub objects: usize,
    /// Texts, names of fields among them.
    pub texts: usize,
}

/// Counts; of what is no JSON it counts something.
pub fn shape(json: &[u8]) -> Shape {
    let (mut shape, mut in_text, mut is_escaped) = (Shape::default(), false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => {
                shape.texts += usize::from(!in_text);
                in_text = !in_text;
            }
            b'{' => shape.objects += usize::from(!in_text),
            _ => {}
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_within_texts_is_not_counted() {
        let counted = |json: &str| {
            let Shape { objects, texts } = shape(json.as_bytes());
            (objects, texts)
        };
        assert_eq!(counted(r#"[{"shell":"a"},{}]"#), (2, 2));
        assert_eq!(counted(r#"{"shell":"f() { echo \"{\"; }","env":{}}"#), (2, 3));
        assert_eq!(counted(r#"["\\",{"a":"\\\"{"}]"#), (1, 3));
        assert_eq!(counted("{{{"), (3, 0));
    }
}
