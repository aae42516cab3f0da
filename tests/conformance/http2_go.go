// Go's own HTTP/2 client and server, as peers of a sidecar: `go run http2_go.go serve` and `go run http2_go.go load PORT`.
// The standard library alone. Each case of `load` prints "ok NAME" or "not ok NAME: PROBLEM".
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const workers = 64

// echo sends the body back as it comes, and says in a trailer what it saw.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Trailer", "X-Sum")
	w.WriteHeader(200)
	w.(http.Flusher).Flush()
	sum := sha256.New()
	buffer := make([]byte, 32*1024)
	for {
		n, err := r.Body.Read(buffer)
		sum.Write(buffer[:n])
		if n > 0 {
			if _, failed := w.Write(buffer[:n]); failed != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
}

func serve() error {
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/take", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %s", n, r.Trailer.Get("X-Count"))
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n])
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/panic", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte("some"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return (&http.Server{Handler: mux, Protocols: &protocols}).Serve(listener)
}

type load struct {
	base   string
	client *http.Client
}

func content(dice *rand.Rand, most int) []byte {
	body := make([]byte, dice.Intn(most))
	dice.Read(body)
	return body
}

// many runs `step` in `workers` goroutines, `each` times in each; the first problem.
func many(each int, step func(dice *rand.Rand) error) error {
	var group sync.WaitGroup
	problems := make(chan error, workers)
	for worker := range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			dice := rand.New(rand.NewSource(int64(worker)))
			for range each {
				if err := step(dice); err != nil {
					problems <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(problems)
	count := 0
	var first error
	for err := range problems {
		if first == nil {
			first = err
		}
		count++
	}
	if first != nil {
		return fmt.Errorf("%d of %d workers: %w", count, workers, first)
	}
	return nil
}

func (l load) echoed(ctx context.Context, body io.Reader, want []byte) error {
	request, _ := http.NewRequestWithContext(ctx, "POST", l.base+"/echo", body)
	response, err := l.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	found, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.ProtoMajor != 2 || response.StatusCode != 200 {
		return fmt.Errorf("%s %s %q", response.Proto, response.Status, found[:min(len(found), 300)])
	}
	if !bytes.Equal(found, want) {
		return fmt.Errorf("%d octets came back, other ones than the %d sent", len(found), len(want))
	}
	if sum := response.Trailer.Get("X-Sum"); sum != fmt.Sprintf("%x", sha256.Sum256(want)) {
		return fmt.Errorf("the trailer is %q", sum)
	}
	return nil
}

func (l load) get(path string) (*http.Response, []byte, error) {
	response, err := l.client.Get(l.base + path)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

func (l load) bodies() error {
	return many(12, func(dice *rand.Rand) error {
		body := content(dice, 300_000)
		if dice.Intn(2) == 0 {
			return l.echoed(context.Background(), bytes.NewReader(body), body)
		}
		return l.echoed(context.Background(), io.MultiReader(bytes.NewReader(body)), body) // of unknown length
	})
}

func (l load) downloads() error {
	return many(20, func(dice *rand.Rand) error {
		n := dice.Intn(400_000)
		_, body, err := l.get(fmt.Sprintf("/bytes?n=%d", n))
		if err == nil && len(body) != n {
			err = fmt.Errorf("%d octets for %d", len(body), n)
		}
		return err
	})
}

// conversation: one line there, the same line back, before the next one; a thousand times, sixty-four at once.
func (l load) conversation() error {
	return many(1, func(dice *rand.Rand) error {
		reader, writer := io.Pipe()
		defer writer.Close()
		request, _ := http.NewRequest("POST", l.base+"/echo", reader)
		response, err := l.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for number := range 1000 {
			line := fmt.Sprintf("%d\n", number)
			if _, err := writer.Write([]byte(line)); err != nil {
				return err
			}
			if back, err := lines.ReadString('\n'); err != nil || back != line {
				return fmt.Errorf("line %d came back as %q: %v", number, back, err)
			}
		}
		return nil
	})
}

// tiny: messages of one to twenty octets, as fast as they go, not answered; none lost, none in another's place.
func (l load) tiny() error {
	return many(1, func(dice *rand.Rand) error {
		reader, writer := io.Pipe()
		var sent atomic.Int64
		request, _ := http.NewRequest("POST", l.base+"/take", reader)
		request.Trailer = http.Header{"X-Count": nil}
		go func() {
			for range 1500 {
				n, err := writer.Write(make([]byte, 8+dice.Intn(20)))
				if err != nil {
					return
				}
				sent.Add(int64(n))
			}
			request.Trailer.Set("X-Count", strconv.FormatInt(sent.Load(), 10))
			writer.Close()
		}()
		response, err := l.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if want := fmt.Sprintf("%d %d", sent.Load(), sent.Load()); err == nil && string(body) != want {
			err = fmt.Errorf("%q for %q", body, want)
		}
		return err
	})
}

// canceled: half of the calls are given up in the middle, the others must not notice.
func (l load) canceled() error {
	return many(10, func(dice *rand.Rand) error {
		body := content(dice, 500_000)
		if dice.Intn(2) == 0 {
			return l.echoed(context.Background(), bytes.NewReader(body), body)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(dice.Intn(20_000))*time.Microsecond)
		defer cancel()
		err := l.echoed(ctx, bytes.NewReader(body), body)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return nil
	})
}

func (l load) early() error {
	return many(5, func(*rand.Rand) error {
		response, _, err := l.get("/early")
		if err == nil && response.StatusCode != 204 {
			err = errors.New(response.Status)
		}
		return err
	})
}

// refused: an answer before the body was read is not lost.
func (l load) refused() error {
	return many(5, func(dice *rand.Rand) error {
		response, err := l.client.Post(l.base+"/refuse", "text/plain", io.MultiReader(bytes.NewReader(content(dice, 2_000_000))))
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != 403 || strings.TrimSpace(string(body)) != "no") {
			err = fmt.Errorf("%s %q", response.Status, body)
		}
		return err
	})
}

// broken: an answer that breaks off is an error for its reader and for nobody else.
func (l load) broken() error {
	return many(5, func(dice *rand.Rand) error {
		if dice.Intn(2) == 0 {
			body := content(dice, 50_000)
			return l.echoed(context.Background(), bytes.NewReader(body), body)
		}
		if _, body, err := l.get("/panic"); err == nil {
			return fmt.Errorf("taken for whole: %q", body)
		}
		return nil
	})
}

func (l load) head() error {
	response, err := l.client.Head(l.base + "/bytes?n=12345")
	if err == nil && response.ContentLength != 12345 {
		err = fmt.Errorf("%s, %d octets", response.Status, response.ContentLength)
	}
	return err
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		fmt.Println(serve())
		return
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	l := load{"http://127.0.0.1:" + os.Args[2], &http.Client{Transport: transport, Timeout: 2 * time.Minute}}
	for _, each := range []struct {
		name string
		run  func() error
	}{
		{"bodies both ways", l.bodies}, {"downloads", l.downloads}, {"conversations line by line", l.conversation}, {"tiny messages", l.tiny},
		{"calls given up in the middle", l.canceled}, {"early hints", l.early}, {"answers before the body", l.refused},
		{"answers that break off", l.broken}, {"HEAD", l.head},
	} {
		if err := each.run(); err != nil {
			fmt.Printf("not ok %s: %v\n", each.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Printf("ok %s\n", each.name)
		}
	}
}
