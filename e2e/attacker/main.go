// Command attacker is who the honest clients of an end-to-end test have beside them. It reads attacks from stdin, prints "ready" once the
// connections that they hold are open, goes on until stdin ends, and prints how often it has done each.
package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// attack is one kind, from one address.
type attack struct {
	Name   string
	Source string // IP address
	To     string // host:port
	TLS    bool
	Send   []byte
	Rate   float64 // per second
	// Hold is how many connections stay open, the newest. 0: each request is answered, over one connection.
	Hold int
	Drip bool // a byte each second on each of them

	done atomic.Int64
}

const patience = 10 * time.Second

func main() {
	in := json.NewDecoder(os.Stdin)
	var all []*attack
	if err := in.Decode(&all); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var filled sync.WaitGroup
	for _, a := range all {
		filled.Add(1)
		go a.run(filled.Done)
	}
	filled.Wait()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is what is awaited
	for _, a := range all {
		fmt.Printf("%s %d\n", a.Name, a.done.Load())
	}
}

func (a *attack) run(filled func()) {
	if a.Hold == 0 {
		filled()
		a.ask()
		return
	}
	var mu sync.Mutex
	var open []net.Conn
	more := func() {
		c, err := a.dial()
		if err != nil {
			return
		}
		c.Write(a.Send) //nolint:errcheck // it may be closed already
		a.done.Add(1)
		mu.Lock()
		defer mu.Unlock()
		if open = append(open, c); len(open) > a.Hold {
			open[0].Close()
			open = open[1:]
		}
	}
	for range a.Hold {
		more()
	}
	filled()
	if a.Drip {
		go func() {
			for range time.Tick(time.Second) {
				mu.Lock()
				for _, c := range open {
					c.Write([]byte("x")) //nolint:errcheck // as above
				}
				mu.Unlock()
			}
		}()
	}
	for range a.ticks() {
		more()
	}
}

// ask sends the request and reads the answer, each time.
func (a *attack) ask() {
	var c net.Conn
	var r *bufio.Reader
	for range a.ticks() {
		if c == nil {
			var err error
			if c, err = a.dial(); err != nil {
				continue
			}
			r = bufio.NewReader(c)
		}
		c.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // Read tells
		c.Write(a.Send)                         //nolint:errcheck // as above
		res, err := http.ReadResponse(r, &http.Request{Method: http.MethodPost})
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			a.done.Add(1)
		}
		if err != nil || res.Close {
			c.Close()
			c = nil
		}
	}
}

func (a *attack) ticks() <-chan time.Time {
	return time.Tick(time.Duration(float64(time.Second) / a.Rate))
}

func (a *attack) dial() (net.Conn, error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(a.Source)}, Timeout: patience}
	if a.TLS {
		return tls.DialWithDialer(d, "tcp", a.To, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nothing secret is sent
	}
	return d.Dial("tcp", a.To)
}
