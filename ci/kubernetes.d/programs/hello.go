// A workload for tests of Services: answers every HTTP request on PORT (8080) with who it is and who asks,
// and counts connections, so that a test sees whether one was dropped. /slow?s=N answers after N seconds.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	var served uint64
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		seconds, err := strconv.Atoi(r.URL.Query().Get("s"))
		if err != nil || seconds < 0 || seconds > 60 {
			http.Error(w, "s: 0 to 60 seconds are expected", http.StatusBadRequest)
			return
		}
		time.Sleep(time.Duration(seconds) * time.Second)
		fmt.Fprintf(w, "hello from %s after %d s\n", name, seconds)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s to %s, request %d\n", name, r.RemoteAddr, atomic.AddUint64(&served, 1))
	})
	server := &http.Server{Addr: ":" + port}
	stop, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer forget()
	go func() {
		<-stop.Done()
		// Requests under way are answered, as a well kept workload does.
		limit, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		server.Shutdown(limit)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
}
