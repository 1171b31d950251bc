// Stands in for CoreDNS, which cannot be had here: takes its arguments, ports and RBAC, and answers
// SERVICE.NAMESPACE.svc.cluster.local with the cluster address (A, AAAA). No headless Services, no pods,
// no SRV, and names outside of the cluster are refused rather than forwarded.
package main

import (
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const zone = "cluster.local."

func main() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services()
	synced := services.Informer().HasSynced
	factory.Start(wait.NeverStop)
	go answer(":8080", "/health", func() bool { return true })
	go answer(":8181", "/ready", synced)
	go answer(":9153", "/metrics", func() bool { return true })
	if !cache.WaitForCacheSync(wait.NeverStop, synced) {
		log.Fatal("the Services could not be listed")
	}
	dns.HandleFunc(".", func(w dns.ResponseWriter, question *dns.Msg) {
		if err := w.WriteMsg(reply(services.Lister(), question)); err != nil {
			log.Print(err)
		}
	})
	go func() { log.Fatal(dns.ListenAndServe(":53", "tcp", nil)) }()
	log.Fatal(dns.ListenAndServe(":53", "udp", nil))
}

func answer(address, path string, good func() bool) {
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		if !good() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServe(address, mux))
}

func reply(services listers.ServiceLister, question *dns.Msg) *dns.Msg {
	message := new(dns.Msg)
	message.SetReply(question)
	message.Authoritative = true
	if len(question.Question) != 1 {
		message.Rcode = dns.RcodeFormatError
		return message
	}
	asked := question.Question[0]
	name := strings.ToLower(asked.Name)
	if !dns.IsSubDomain(zone, name) {
		message.Rcode = dns.RcodeRefused
		return message
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, "svc."+zone))
	if !strings.HasSuffix(name, ".svc."+zone) || len(labels) != 2 {
		message.Rcode = dns.RcodeNameError
		return message
	}
	service, err := services.Services(labels[1]).Get(labels[0])
	if err != nil {
		message.Rcode = dns.RcodeNameError
		return message
	}
	for _, text := range service.Spec.ClusterIPs {
		header := dns.RR_Header{Name: asked.Name, Class: dns.ClassINET, Ttl: 5}
		address := net.ParseIP(text)
		if four := address.To4(); four != nil && asked.Qtype == dns.TypeA {
			header.Rrtype = dns.TypeA
			message.Answer = append(message.Answer, &dns.A{Hdr: header, A: four})
		} else if four == nil && address != nil && asked.Qtype == dns.TypeAAAA {
			header.Rrtype = dns.TypeAAAA
			message.Answer = append(message.Answer, &dns.AAAA{Hdr: header, AAAA: address})
		}
	}
	return message
}
