#!/usr/bin/env bash
# Publishes a release on GitHub: makes a draft, uploads every file, takes them from there again and compares, and only then
# shows them to everybody, once. What is published is never replaced; a draft that an earlier attempt left is.
#
#     deploy/release/publish.sh v0.1.0 FOLDER NOTES
#
# Needs gh, GH_TOKEN with the right to write contents, and GH_REPO.
set -euo pipefail

if [ $# != 3 ]; then
  echo 'usage: deploy/release/publish.sh TAG FOLDER NOTES' >&2
  exit 2
fi
tag=$1 folder=$2 notes=$3

downloaded=$(mktemp -d)
trap 'rm -rf "$downloaded"' EXIT

# A draft has a tag's name too, and may be one of several.
listed=$(gh api --paginate "repos/{owner}/{repo}/releases" --jq ".[] | select(.tag_name == \"$tag\") | \"\(.id) \(.draft)\"")
while read -r id draft; do
  [ -n "$id" ] || continue
  if [ "$draft" != true ]; then
    echo "$tag is published already, and what is published is never replaced: raise the version" >&2
    exit 1
  fi
  gh api --method DELETE "repos/{owner}/{repo}/releases/$id"
done <<<"$listed"

# Semantic Versioning: a hyphen means that it comes before the version.
stage=()
case $tag in *-*) stage=(--prerelease) ;; esac
gh release create "$tag" --draft --verify-tag --title "$tag" --notes-file "$notes" ${stage[@]+"${stage[@]}"} "$folder"/*

gh release download "$tag" --dir "$downloaded"
diff --recursive --brief "$folder" "$downloaded"

gh release edit "$tag" --draft=false
