// Kubelet-stand-in is the part of a kubelet that a simulated machine needs: it forwards ports to the
// pods of the host network, of which there are only such here.
//
// The streams are served by Kubernetes' own code, over SPDY and over WebSockets. Callers need a
// certificate of the cluster's authority, as a kubelet demands.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
)

const (
	// A kubelet's own limits.
	idle     = 4 * time.Hour
	creation = 30 * time.Second
	// Connecting to a port of the same machine takes no time.
	dial = 5 * time.Second
	// What a request may take to be read.
	headers = 10 * time.Second
)

// hostNetwork forwards to ports of the machine's own address.
type hostNetwork struct{ address string }

func (h hostNetwork) PortForward(ctx context.Context, name string, _ string, port int32, stream io.ReadWriteCloser) error {
	dialer := net.Dialer{Timeout: dial}
	pod, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(h.address, strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("connect to port %d of pod %s: %w", port, name, err)
	}
	defer pod.Close()
	// Whichever side ends first ends both.
	done := make(chan error, 2)
	go func() { _, err := io.Copy(pod, stream); done <- err }()
	go func() { _, err := io.Copy(stream, pod); done <- err }()
	err = <-done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func main() {
	address := flag.String("address", "", "the machine's address")
	port := flag.Int("port", 10250, "where to listen on it")
	certificate := flag.String("tls-cert-file", "", "certificate to serve with")
	key := flag.String("tls-private-key-file", "", "its key")
	authority := flag.String("client-ca-file", "", "who signs the certificates of callers")
	flag.Parse()
	if err := serve(*address, *port, *certificate, *key, *authority); err != nil {
		log.Fatal(err)
	}
}

func serve(address string, port int, certificate, key, authority string) error {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return fmt.Errorf("read the authority: %w", err)
	}
	callers := x509.NewCertPool()
	if !callers.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", authority)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/portForward/{namespace}/{pod}", func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		portforward.ServePortForward(w, r, hostNetwork{address}, r.PathValue("pod"), "", options,
			idle, creation, portforward.SupportedProtocols)
	})
	server := http.Server{
		Addr:              net.JoinHostPort(address, strconv.Itoa(port)),
		Handler:           mux,
		ReadHeaderTimeout: headers,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs:  callers,
			// SPDY takes the connection over, which HTTP/2 does not allow.
			NextProtos: []string{"http/1.1"},
		},
	}
	return server.ListenAndServeTLS(certificate, key)
}
