# Sourced by ci/kubernetes: Debian packages of the shape that the public Kubernetes repository has, in a flat
# repository signed by a key that is thrown away at once.
# shellcheck shell=bash

# make_repository BIN OUT: OUT/deb (the repository) and OUT/key.asc.
make_repository() {
  local bin=$1 out=$2 tree=$work/tree
  rm -rf "$out" "$tree"
  mkdir -p "$out/deb/amd64"
  make_packages "$bin" "$tree" "$out/deb/amd64"
  (
    cd "$out/deb"
    apt-ftparchive packages amd64 > Packages
    gzip -9nk Packages
    apt-ftparchive -o APT::FTPArchive::Release::Origin=ingot-test -o APT::FTPArchive::Release::Label=ingot-test \
      -o APT::FTPArchive::Release::Description="Kubernetes $kubernetes_version for tests" release . > "$work/Release"
    mv "$work/Release" Release
    sign_release "$out/key.asc"
  )
}

make_packages() {
  local bin=$1 tree=$2 out=$3 version=$kubernetes_version-1.1
  debian_packages "$work/cni" containernetworking-plugins
  put "$tree/kubelet" 0755 /usr/bin/kubelet "$bin/kubelet"
  put "$tree/kubelet" 0644 /usr/lib/systemd/system/kubelet.service "$parts/units/kubelet.service"
  package "$tree/kubelet" "$out" "$version" 'Node agent of Kubernetes' \
    'iptables (>= 1.4.21), kubernetes-cni (>= 1.1.1), iproute2, mount, util-linux, ethtool, socat, conntrack'
  put "$tree/kubeadm" 0755 /usr/bin/kubeadm "$bin/kubeadm"
  put "$tree/kubeadm" 0644 /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf "$parts/units/10-kubeadm.conf"
  package "$tree/kubeadm" "$out" "$version" 'Makes and joins clusters' \
    'kubelet (>= 1.19.0), kubectl (>= 1.19.0), kubernetes-cni (>= 1.1.1), cri-tools (>= 1.19.0)'
  put "$tree/kubectl" 0755 /usr/bin/kubectl "$bin/kubectl"
  package "$tree/kubectl" "$out" "$version" 'Command line of Kubernetes' ''
  put "$tree/cri-tools" 0755 /usr/bin/crictl "$bin/crictl"
  package "$tree/cri-tools" "$out" 1.20.0-1.1 'Stands in for crictl, over the same interface' ''
  local plugin
  for plugin in "$work"/cni/usr/lib/cni/*; do put "$tree/kubernetes-cni" 0755 "/opt/cni/bin/$(basename "$plugin")" "$plugin"; done
  package "$tree/kubernetes-cni" "$out" 1.1.1-1.1 'Reference network plugins, of Debian' ''
}

# put TREE MODE PATH SOURCE
put() { install -D -m "$2" "$4" "$1$3"; }

# package TREE OUT VERSION DESCRIPTION DEPENDS
package() {
  local tree=$1 out=$2 version=$3 about=$4 depends=$5 name
  name=$(basename "$tree")
  mkdir -p "$tree/DEBIAN"
  {
    printf 'Package: %s\nVersion: %s\nArchitecture: amd64\nSection: net\nPriority: optional\n' "$name" "$version"
    printf 'Maintainer: ingot tests <tests@ingot.invalid>\nInstalled-Size: %s\n' "$(du -sk --apparent-size --exclude=DEBIAN "$tree" | cut -f1)"
    if [ -n "$depends" ]; then printf 'Depends: %s\n' "$depends"; fi
    printf 'Description: %s\n' "$about"
  } > "$tree/DEBIAN/control"
  find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  find "$tree" -type d -exec chmod 0755 {} +
  dpkg-deb --build --root-owner-group -Zxz -z1 "$tree" "$out/${name}_${version}_amd64.deb" >/dev/null
}

# sign_release KEY: signs the Release file of this folder; KEY is the public half, the secret half is not kept.
sign_release() {
  local home
  home=$(mktemp -d)
  # A subshell's trap: nothing of the key stays whatever fails.
  (
    trap 'gpgconf --homedir "$home" --kill all >/dev/null 2>&1; rm -rf "$home"' EXIT
    sign=(gpg --homedir "$home" --batch --quiet --no-tty --pinentry-mode loopback --passphrase '' --digest-algo SHA512)
    "${sign[@]}" --quick-generate-key 'ingot test repository of Kubernetes <tests@ingot.invalid>' ed25519 sign never 2>/dev/null
    "${sign[@]}" --armor --export > "$1"
    "${sign[@]}" --clearsign --output InRelease Release
    "${sign[@]}" --armor --detach-sign --output Release.gpg Release
  )
}
