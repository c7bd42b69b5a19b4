//! A picture of where the time of a copy goes: one row for each request, in the order in which they began.

use std::fmt::Write;

use tokio::time::Instant;

use crate::record::Request;

// Pixels.
const WIDTH: f64 = 960.0;
const LABELS: f64 = 210.0;
const ROW: f64 = 13.0;
const BAR: f64 = 9.0;
const HEAD: f64 = 44.0;
const FOOT: f64 = 26.0;
const LEGEND: f64 = 30.0;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Authorization,
    Manifest,
    Existence,
    Session,
    BlobRead,
    BlobWrite,
    ManifestWrite,
    Tags,
}

/// Each with its name, and a colour that is seen on white and on black.
const KINDS: [(Kind, &str, &str); 8] = [
    (Kind::Authorization, "authorization", "#8b949e"),
    (Kind::Manifest, "manifest", "#a371f7"),
    (Kind::Existence, "existence", "#db9a04"),
    (Kind::Session, "session", "#e5534b"),
    (Kind::BlobRead, "blob read", "#2f81f7"),
    (Kind::BlobWrite, "blob write", "#2da44e"),
    (Kind::ManifestWrite, "manifest write", "#bf4b8a"),
    (Kind::Tags, "tags", "#57606a"),
];

impl Kind {
    /// By the endpoints of the OCI distribution specification.
    fn of(request: &Request) -> Kind {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        match method {
            _ if path == "/v2/" => Kind::Authorization,
            "PUT" if path.contains("/manifests/") => Kind::ManifestWrite,
            _ if path.contains("/manifests/") => Kind::Manifest,
            "POST" => Kind::Session,
            "PUT" | "PATCH" => Kind::BlobWrite,
            "HEAD" => Kind::Existence,
            _ if path.contains("/blobs/") => Kind::BlobRead,
            _ => Kind::Tags,
        }
    }

    fn name_and_colour(self) -> (&'static str, &'static str) {
        let found = KINDS.iter().find(|entry| entry.0 == self);
        found.map_or(("", ""), |entry| (entry.1, entry.2))
    }
}

/// One copy: its title, and its requests to the source and to the destination.
pub struct Panel {
    pub title: String,
    pub source: Vec<Request>,
    pub destination: Vec<Request>,
}

impl Panel {
    /// In the order in which they began, with the side.
    fn rows(&self) -> Vec<(&'static str, &Request)> {
        let source = self.source.iter().map(|request| ("source", request));
        let destination = self
            .destination
            .iter()
            .map(|request| ("destination", request));
        let mut rows: Vec<_> = source.chain(destination).collect();
        rows.sort_by_key(|(_, request)| request.connect);
        rows
    }

    /// From the first byte to the last, in milliseconds.
    pub fn milliseconds(&self) -> f64 {
        let rows = self.rows();
        let begin = rows.iter().map(|(_, request)| request.connect).min();
        let end = rows.iter().map(|(_, request)| request.end).max();
        begin.zip(end).map_or(0.0, |(begin, end)| since(begin, end))
    }
}

fn since(begin: Instant, end: Instant) -> f64 {
    end.duration_since(begin).as_secs_f64() * 1000.0
}

/// An SVG without anything outside of it. All panels have the same scale of time.
pub fn svg(panels: &[Panel]) -> String {
    let longest = panels.iter().map(Panel::milliseconds).fold(1.0, f64::max);
    let step = step(longest);
    let scale = (WIDTH - LABELS - 20.0) / longest;
    let height: f64 = LEGEND
        + panels
            .iter()
            .map(|panel| HEAD + panel.rows().len() as f64 * ROW + FOOT)
            .sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <style>text{{fill:#24292f}}.grid{{stroke:#d0d7de}}.connect{{stroke:#8b949e}}\
         @media(prefers-color-scheme:dark){{text{{fill:#c9d1d9}}.grid{{stroke:#30363d}}}}</style>\n"
    );
    for (number, (_, name, colour)) in KINDS.iter().enumerate() {
        let x = 10.0 + number as f64 * 112.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"10\" width=\"9\" height=\"9\" fill=\"{colour}\"/><text x=\"{}\" y=\"18\">{name}</text>",
            x + 13.0
        );
    }
    let mut top = LEGEND;
    for panel in panels {
        top = draw(&mut svg, panel, top, scale, step);
    }
    svg + "</svg>\n"
}

/// Draws a panel from `top` on; gives where the next one begins.
fn draw(svg: &mut String, panel: &Panel, top: f64, scale: f64, step: f64) -> f64 {
    let rows = panel.rows();
    let Some((_, first)) = rows.first() else {
        return top + HEAD + FOOT;
    };
    let origin = first.connect;
    let (begin, end) = (top + HEAD, top + HEAD + rows.len() as f64 * ROW);
    let duration = panel.milliseconds();
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{}: {} requests in {duration:.0} ms</text>",
        top + 22.0,
        panel.title,
        rows.len()
    );
    for number in 0..=(duration / step) as usize {
        let milliseconds = number as f64 * step;
        let x = LABELS + milliseconds * scale;
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{begin}\" x2=\"{x:.1}\" y2=\"{end}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{milliseconds} ms</text>",
            end + 12.0
        );
    }
    for (number, (side, request)) in rows.iter().enumerate() {
        let y = begin + number as f64 * ROW;
        let at = |instant| LABELS + since(origin, instant) * scale;
        let (connect, from, to) = (at(request.connect), at(request.begin), at(request.end));
        let (name, colour) = Kind::of(request).name_and_colour();
        let bytes = request.sent_bytes.max(request.received_bytes);
        let size = match bytes {
            0..100_000 => String::new(),
            _ => format!(", {:.1} MB", bytes as f64 / 1e6),
        };
        let middle = y + BAR / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{side}: {} {name}{size}</text>\
             <line class=\"connect\" x1=\"{connect:.1}\" y1=\"{middle:.1}\" x2=\"{from:.1}\" y2=\"{middle:.1}\"/>\
             <rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
            LABELS - 8.0,
            y + 8.5,
            request.method,
            (to - from).max(1.0)
        );
    }
    end + FOOT
}

/// Milliseconds between lines: a round number of which at most ten fit.
fn step(longest: f64) -> f64 {
    let power = 10f64.powf((longest / 10.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|step| longest / step <= 10.0)
        .unwrap_or(longest)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn request(method: &str, path: &str, begin: Instant, milliseconds: u64) -> Request {
        Request {
            connection: 0,
            method: method.to_owned(),
            path: path.to_owned(),
            connect: begin,
            begin,
            end: begin + Duration::from_millis(milliseconds),
            sent_bytes: 0,
            received_bytes: 1_500_000,
        }
    }

    #[test]
    fn every_endpoint_has_its_kind() {
        let now = Instant::now();
        for (method, path, kind) in [
            ("GET", "/v2/", Kind::Authorization),
            ("HEAD", "/v2/a/manifests/1", Kind::Manifest),
            ("PUT", "/v2/a/manifests/1", Kind::ManifestWrite),
            ("HEAD", "/v2/a/blobs/sha256:0", Kind::Existence),
            ("GET", "/v2/a/blobs/sha256:0", Kind::BlobRead),
            ("POST", "/v2/a/blobs/uploads/", Kind::Session),
            ("PATCH", "/v2/a/blobs/uploads/1", Kind::BlobWrite),
            ("PUT", "/v2/a/blobs/uploads/1", Kind::BlobWrite),
            ("GET", "/v2/a/tags/list", Kind::Tags),
        ] {
            assert_eq!(Kind::of(&request(method, path, now, 1)), kind, "{path}");
        }
    }

    #[test]
    fn rows_are_in_order_and_to_scale() {
        let now = Instant::now();
        let later = now + Duration::from_millis(50);
        let panel = Panel {
            title: "copy".to_owned(),
            source: vec![request("GET", "/v2/a/blobs/sha256:0", later, 50)],
            destination: vec![request("POST", "/v2/a/blobs/uploads/", now, 20)],
        };
        assert_eq!(panel.milliseconds(), 100.0);
        let drawn = svg(&[panel]);
        let positions = [
            "destination: POST session, 1.5 MB",
            "source: GET blob read, 1.5 MB",
        ]
        .map(|label| drawn.find(label).expect("a row"));
        assert!(positions[0] < positions[1]);
        // Half of the 730 pixels, after the labels.
        assert!(drawn.contains("<rect x=\"575.0\""), "{drawn}");
        assert!(drawn.contains("width=\"365.0\""), "{drawn}");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([step(95.0), step(101.0), step(430.0)], [10.0, 20.0, 50.0]);
    }
}
