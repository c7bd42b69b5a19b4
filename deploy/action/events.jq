# The direct events that the inputs of action.yml ask for, one for each image, and the references that are left out:
# {"events": [...], "left_out": [...]}. The token is not among them. Refuses inputs that say nothing, or too much.

def refuse: halt_error(1);

def input_text($name): env["INPUT_" + $name] // "" | sub("^\\s+"; "") | sub("\\s+$"; "");

def input_list($name): [input_text($name) | splits("[\\s,]+") | select(. != "")];

def input_flag($name; $field):
  input_text($name)
  | if . == "true" then {($field): true}
    elif . == "false" or . == "" then {}
    else "`\($field | gsub("_"; "-"))` is \(tojson): expected true or false" | refuse
    end;

# JSON, a repository, or a repository in each line. A repository may begin with a brace: {owner}/{name}.
def destination:
  input_text("DESTINATION")
  | (try fromjson catch null) as $json
  | if . == "" then {}
    elif $json | type == "object" or type == "array" then {destination: $json}
    else [splits("\\s*\\n\\s*") | select(. != "")] | {destination: (if length == 1 then .[0] else . end)}
    end;

def options:
  input_list("PLATFORMS") as $platforms
  | destination
    + (input_text("PLATFORM") | if . == "" then {} else {platform: .} end)
    + (if $platforms == [] then {} else {platforms: $platforms} end)
    + input_flag("REFERRERS"; "referrers") + input_flag("DRY_RUN"; "dry_run") + input_flag("FORCE"; "force");

# A name on GHCR is in lower case, and `github.repository` may not be.
(input_text("IMAGE") | ascii_downcase) as $image
| input_text("DIGEST") as $digest
| (input_text("SOURCE") | sub("^(?<name>[^:@]+)"; .name | ascii_downcase)) as $source
| options as $options
| [input_list("TAGS")[]
   | if contains("/") then capture("^(?<image>.+):(?<tag>[^:/]+)$") // ("`tags`: \(tojson) has no tag" | refuse)
     else {image: $image, tag: .} end
   | .image |= ascii_downcase] as $tagged
| if $source != "" then
    if $image != "" or $digest != "" or $tagged != [] then
      "`source` names the image, so leave `image`, `tags` and `digest` out" | refuse
    else {events: [{source: $source} + $options], left_out: []} end
  elif $tagged == [] then
    if $image == "" or $digest == "" then
      "nothing says what to copy: set `tags`, such as the output of docker/metadata-action, or `source`" | refuse
    else {events: [{source: "\($image)@\($digest)"} + $options], left_out: []} end
  elif any($tagged[]; .image == "") then "`tags` are tags alone: set `image` too, such as ghcr.io/acme/api" | refuse
  else
    ($tagged | map(select(if $image == "" then .image | startswith("ghcr.io/") else .image == $image end))) as $kept
    | if $kept == [] then
        "none of `tags` is an image of \(if $image == "" then "ghcr.io" else $image end): \($tagged | map("\(.image):\(.tag)") | join(", "))"
        | refuse
      else {
        events: [$kept | group_by(.image)[]
                 | {image: .[0].image, tags: map(.tag)} + (if $digest == "" then {} else {digest: $digest} end) + $options],
        left_out: ($tagged - $kept | map("\(.image):\(.tag)"))
      } end
  end
