# Sourced by ci/kubernetes: Debian's source package of Kubernetes (the whole upstream tree with what it vendors),
# built with bookworm's Go. About ten CPU minutes.
# shellcheck shell=bash

# build_binaries OUT: kubeadm, kubelet, kubectl, the control plane, kube-proxy, and our own small programs.
build_binaries() {
  local out=$1 tree=$work/gopath/src/k8s.io/kubernetes
  say "building Kubernetes ${kubernetes_version:?} from Debian's source package (5 minutes on 2 cores, kept in $store)"
  rm -rf "$work/source" "$work/gopath"
  mkdir -p "$work/source" "$tree" "$work/gotmp" "$out"
  (cd "$work/source" && debian apt-get source -qq --download-only "kubernetes=${kubernetes_source:?}")
  tar -xzf "$work"/source/kubernetes_*.orig.tar.gz -C "$tree" --strip-components=1
  debian_packages "$work/go" golang-1.19-go/bookworm golang-1.19-src/bookworm golang-github-modern-go-reflect2-dev/bookworm
  mend_reflect2 "$tree/vendor/github.com/modern-go/reflect2"
  (
    cd "$tree"
    export GOROOT=$work/go/usr/lib/go-1.19 GOPATH=$work/gopath GOCACHE=$work/gocache GOTMPDIR=$work/gotmp
    # The tree's go.mod does not satisfy this Go: its vendor folder does, the old way.
    export PATH=$GOROOT/bin:$PATH GO111MODULE=off GOPROXY=off GOTOOLCHAIN=local CGO_ENABLED=0 GOGC=400 GOFLAGS=-trimpath
    generate_openapi
    place_programs
    go_build "$out" k8s.io/kubernetes/cmd/{kubeadm,kubelet,kubectl,kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy} ./cmd/ingot-test/...
  )
  "$out/kubeadm" version -o short | grep -qxF "v$kubernetes_version"
}

# The vendored reflect2 breaks with Go 1.18 and newer (a fault at the first map that is written as JSON);
# Debian's has the same interface.
mend_reflect2() {
  rm "$1"/*.go
  cp "$work"/go/usr/share/gocode/src/github.com/modern-go/reflect2/*.go "$1/"
  rm -f "$1"/*_test.go
}

# The one generated file that the source package lacks; kube-apiserver needs it.
generate_openapi() {
  local folders
  go build -o "$work/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
  folders=$(grep -rl --include='*.go' --exclude-dir=code-generator --exclude-dir=sample-apiserver '+k8s:openapi-gen=' staging/src/k8s.io/*/ pkg cmd plugin |
    grep -v /_examples/ | xargs -n1 dirname | sort -u |
    sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^\(pkg\|cmd\|plugin\)/#k8s.io/kubernetes/\1/#' | paste -sd,)
  "$work/openapi-gen" --logtostderr -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"
}

# Our programs are built inside the tree, with what it vendors.
place_programs() {
  local program name
  for program in "${parts:?}"/programs/*.go; do
    name=$(basename "$program" .go)
    mkdir -p "cmd/ingot-test/$name"
    cp "$program" "cmd/ingot-test/$name/main.go"
  done
}

go_build() {
  local out=$1 package flags='-s -w'
  shift
  for package in k8s.io/kubernetes/vendor/k8s.io/{client-go/pkg,component-base}/version; do
    flags+=" -X $package.gitVersion=v$kubernetes_version -X $package.gitMajor=1 -X $package.gitMinor=20 -X $package.gitTreeState=clean"
    flags+=" -X $package.gitCommit=${kubernetes_commit:?} -X $package.buildDate=${kubernetes_date:?}"
  done
  nice -n 5 go build -p 2 -tags providerless,dockerless -ldflags "$flags" -o "$out/" "$@"
}
