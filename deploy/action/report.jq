# What is told of the function's replies. Whatever stands in them may come from a registry, so nothing is printed as it is.

# One line, without what moves the cursor or turns the direction of writing.
def line:
  tostring | explode
  | map(if . < 32 or (127 <= . and . < 160) or IN(8232, 8233) or (8234 <= . and . <= 8238) or (8294 <= . and . <= 8297) then 32 else . end)
  | implode;

# Text that Markdown and HTML take for nothing but text: all but letters, digits, spaces and ,-./ as their numbers.
def cell:
  line | explode
  | map(if . == 32 or (44 <= . and . <= 57) or (65 <= . and . <= 90) or (97 <= . and . <= 122) then [.] | implode else "&#\(.);" end)
  | if . == [] then "" else "<code>\(join(""))</code>" end;

def amount:
  if . < 1024 then "\(.) B"
  else {value: ., units: ["KiB", "MiB", "GiB", "TiB"]}
    | .value /= 1024
    | until(.value < 1024 or (.units | length) == 1; .value /= 1024 | .units |= .[1:])
    | "\(.value * 10 | round / 10) \(.units[0])"
  end;

def reports: if has("reports") then .reports[] else . end;

# One report for the replies to all events; its outcome is the first of these that occurs, as in the function's own.
def combined:
  if length == 1 then .[0]
  else (map(.outcome) as $outcomes
        | ["failed", "deferred", "copied", "planned", "queued", "current", "ignored"] | map(select(IN($outcomes[]))) | first) as $outcome
    | {outcome: $outcome, reports: map(reports)}
  end;

def subject: .source // .package // .rule // .owner // "";

def figures: "\(.blobs.copied // 0) blobs, \(.bytes.copied // 0 | amount), \((.elapsed_ms // 0) / 100 | round / 10) s";

# For the log.
def log:
  reports
  | "\(.outcome) \(subject)\(if .destination then " to \(.destination)" else "" end)\((.error // .reason // null) | if . then ": \(.)" else "" end)",
    (select(.digest) | "  \(.digest)", "  \(figures)"),
    (.plan // [] | .[] | "  \(.)")
  | line;

# The text of each annotation: a level, a tab and a sentence.
def annotations:
  .outcome as $outcome
  | reports
  | (.warnings // [] | .[] | "warning\t\(. | line)"),
    (select(.outcome == "failed" or .outcome == "deferred") | "error\t\(.error // "no reason was given" | line)"),
    (select(.outcome | IN("copied", "current", "planned", "failed", "deferred", "ignored") | not) | "error\tthe outcome is \(.outcome | line)"),
    (select(.outcome == "ignored") | "\(if $outcome == "ignored" then "error" else "warning" end)\t\(subject | line) was ignored: \(.reason // "no reason was given" | line)");

def each_or_one: if (unique | length) == 1 then .[0] else join("\n") end;

def digest: [reports | .digest // empty | line] | if . == [] then "" else each_or_one end;

def destination: [reports | .destination // empty | line] | join("\n");

# For the page of the run, which shows no more than 1 MiB for a step.
def summary:
  [reports] as $all
  | "### ghcr-to-ecr: \(.outcome | line | gsub("[^a-z]"; ""))",
    "",
    "| Source | Destination | Outcome | Digest | Bytes | Seconds |",
    "| --- | --- | --- | --- | ---: | ---: |",
    ($all[:200][]
     | [(subject | cell), (.destination // "" | cell), (.outcome | cell), (.digest // "" | cell),
        (if .bytes then .bytes.copied // 0 | amount else "" end),
        (if .elapsed_ms then .elapsed_ms / 100 | round / 10 | tostring else "" end)]
     | "| \(join(" | ")) |"),
    (select($all | length > 200) | "", "and \(($all | length) - 200) more"),
    ([$all[] | (.error // .reason // empty), (.warnings // [] | .[])] | .[:50][] | "", "\(.[:2000] | cell)");
