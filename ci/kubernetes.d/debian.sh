# Sourced by ci/kubernetes: packages of Debian bookworm and trixie, whichever of them this machine runs.
# shellcheck shell=bash

# debian_root DIR: an apt of its own in DIR, over the machine's own mirror; nothing is ever installed by it.
debian_root() {
  local dir=$1
  mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/none"
  : > "$dir/status"
  printf 'Types: deb deb-src\nURIs: %s\nSuites: bookworm trixie\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n' \
    "$(debian_mirror)" /usr/share/keyrings/debian-archive-keyring.gpg > "$dir/debian.sources"
  cat > "$dir/apt.conf" <<CONF
Dir::State "$dir";
Dir::State::status "$dir/status";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
Dir::Etc::SourceList "$dir/debian.sources";
Dir::Etc::SourceParts "$dir/none";
Dir::Etc::PreferencesParts "$dir/none";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Default-Release "trixie";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
CONF
  debian_apt=$dir/apt.conf
  debian apt-get update -qq
}

debian() { APT_CONFIG=$debian_apt "$@"; }

# debian_packages DIR NAME[/RELEASE]...: the files of these packages, unpacked below DIR, no script run.
debian_packages() {
  local dir=$1 debs package
  shift
  debs=$dir.debs
  rm -rf "$dir" "$debs"
  mkdir -p "$dir" "$debs"
  (cd "$debs" && debian apt-get download -qq "$@")
  for package in "$debs"/*.deb; do dpkg-deb -x "$package" "$dir"; done
  rm -rf "$debs"
}
