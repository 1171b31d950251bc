// Stands in for crictl, which Debian does not have: what kubeadm calls, and what tests look at, spoken over
// the runtime's own CRI (v1alpha2, as this kubelet's client does). Output is plain, one thing a line.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/cri/remote"
)

const usage = `usage: crictl [-r SOCKET] [-i SOCKET] [-t SECONDS] COMMAND
  version | info | images [-q] | inspecti IMAGE... | pull IMAGE | rmi IMAGE...
  pods [-q] | stopp POD... | rmp [-f] POD... | ps [-a] [-q] | stop CONTAINER... | rm [-f] CONTAINER... | logs CONTAINER`

func main() {
	// The client of the kubelet logs what we report ourselves.
	quiet := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(quiet)
	quiet.Set("logtostderr", "false")
	quiet.Set("alsologtostderr", "false")
	quiet.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	flags := flag.NewFlagSet("crictl", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprintln(os.Stderr, usage) }
	var socket, images string
	var seconds int
	flags.StringVar(&socket, "r", configured(), "")
	flags.StringVar(&socket, "runtime-endpoint", socket, "")
	flags.StringVar(&images, "i", "", "")
	flags.StringVar(&images, "image-endpoint", "", "")
	flags.IntVar(&seconds, "t", 120, "")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("a command is expected\n" + usage)
	}
	if images == "" {
		images = socket
	}
	timeout := time.Duration(seconds) * time.Second
	runtime, err := remote.NewRemoteRuntimeService(withScheme(socket), timeout)
	if err != nil {
		return err
	}
	store, err := remote.NewRemoteImageService(withScheme(images), timeout)
	if err != nil {
		return err
	}
	rest := flag.NewFlagSet(flags.Arg(0), flag.ContinueOnError)
	short := rest.Bool("q", false, "")
	all := rest.Bool("a", false, "")
	rest.Bool("f", false, "")
	if err := rest.Parse(flags.Args()[1:]); err != nil {
		return err
	}
	tool := tool{runtime: runtime, images: store, short: *short, all: *all}
	return tool.do(flags.Arg(0), rest.Args())
}

// The socket that the environment or /etc/crictl.yaml names, else containerd's.
func configured() string {
	if named := os.Getenv("CONTAINER_RUNTIME_ENDPOINT"); named != "" {
		return named
	}
	if file, err := os.Open("/etc/crictl.yaml"); err == nil {
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if value := strings.TrimPrefix(lines.Text(), "runtime-endpoint:"); value != lines.Text() {
				return strings.Trim(value, " \"'")
			}
		}
	}
	return "unix:///run/containerd/containerd.sock"
}

func withScheme(socket string) string {
	if strings.HasPrefix(socket, "/") {
		return "unix://" + socket
	}
	return socket
}

type tool struct {
	runtime    cri.RuntimeService
	images     cri.ImageManagerService
	short, all bool
}

func (t tool) do(command string, names []string) error {
	switch command {
	case "version":
		version, err := t.runtime.Version("0.1.0")
		if err == nil {
			fmt.Printf("%s %s, CRI %s\n", version.RuntimeName, version.RuntimeVersion, version.RuntimeApiVersion)
		}
		return err
	case "info":
		status, err := t.runtime.Status()
		return print(status, err)
	case "images":
		return t.listImages()
	case "pods":
		return t.listPods()
	case "ps":
		return t.listContainers()
	}
	if len(names) == 0 {
		return fmt.Errorf("`%s`: no such command, or it lacks a name\n%s", command, usage)
	}
	for _, name := range names {
		if err := t.one(command, name); err != nil {
			return err
		}
	}
	return nil
}

func (t tool) one(command, name string) error {
	image := &runtimeapi.ImageSpec{Image: name}
	switch command {
	case "inspecti":
		found, err := t.images.ImageStatus(image)
		if err == nil && found == nil {
			err = fmt.Errorf("no such image %q", name)
		}
		return print(found, err)
	case "pull":
		id, err := t.images.PullImage(image, nil, nil)
		if err == nil {
			fmt.Println("Image is up to date for", id)
		}
		return err
	case "rmi":
		return t.images.RemoveImage(image)
	case "stopp":
		return t.runtime.StopPodSandbox(name)
	case "rmp":
		if err := t.runtime.StopPodSandbox(name); err != nil {
			return err
		}
		return t.runtime.RemovePodSandbox(name)
	case "stop":
		return t.runtime.StopContainer(name, 10)
	case "rm":
		if err := t.runtime.StopContainer(name, 0); err != nil {
			return err
		}
		return t.runtime.RemoveContainer(name)
	case "logs":
		return t.logs(name)
	}
	return fmt.Errorf("no command `%s`\n%s", command, usage)
}

func (t tool) listImages() error {
	images, err := t.images.ListImages(nil)
	for _, image := range images {
		if t.short {
			fmt.Println(image.Id)
		} else {
			fmt.Println(image.Id, image.Size_, strings.Join(append(image.RepoTags, image.RepoDigests...), " "))
		}
	}
	return err
}

func (t tool) listPods() error {
	pods, err := t.runtime.ListPodSandbox(nil)
	for _, pod := range pods {
		if t.short {
			fmt.Println(pod.Id)
		} else {
			fmt.Println(pod.Id, pod.State, pod.Metadata.Namespace+"/"+pod.Metadata.Name)
		}
	}
	return err
}

func (t tool) listContainers() error {
	containers, err := t.runtime.ListContainers(nil)
	for _, container := range containers {
		if !t.all && container.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if t.short {
			fmt.Println(container.Id)
		} else {
			fmt.Println(container.Id, container.State, container.Labels["io.kubernetes.pod.name"]+"/"+container.Metadata.Name, "attempt", container.Metadata.Attempt)
		}
	}
	return err
}

// Accepts the beginning of an identifier, as people type it.
func (t tool) logs(name string) error {
	containers, err := t.runtime.ListContainers(&runtimeapi.ContainerFilter{Id: name})
	if err != nil {
		return err
	}
	if len(containers) != 1 {
		return fmt.Errorf("%d containers have the identifier %q", len(containers), name)
	}
	status, err := t.runtime.ContainerStatus(containers[0].Id)
	if err != nil {
		return err
	}
	file, err := os.Open(status.LogPath)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(os.Stdout, file)
	return err
}

func print(what interface{}, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(what)
}
