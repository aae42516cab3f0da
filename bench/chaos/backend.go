// An application to be maltreated, in Go: as backend.py, whose words it obeys. `backend PORT MODE_FILE DELIVERIES_FILE NAME`.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	lock     sync.Mutex
	mode     = "ok"
	argument int
	listener net.Listener
	open     = map[net.Conn]*time.Timer{}
)

func look() (string, int) {
	lock.Lock()
	defer lock.Unlock()
	return mode, argument
}

func answer(name string, deliveries *os.File) http.HandlerFunc {
	return func(response http.ResponseWriter, request *http.Request) {
		if _, err := io.Copy(io.Discard, request.Body); err != nil {
			return
		}
		if request.Method == "POST" {
			fmt.Fprintln(deliveries, request.Header.Get("X-Id"))
		}
		mode, argument := look()
		status, body := 200, "hello from "+name
		switch mode {
		case "slow":
			time.Sleep(time.Duration(argument) * time.Millisecond)
		case "503":
			status, body = 503, "not now"
		case "reset":
			conn, _, err := http.NewResponseController(response).Hijack()
			if err == nil {
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
			return
		}
		response.Header().Set("X-Backend", name)
		response.Header().Set("Content-Length", strconv.Itoa(len(body)))
		response.WriteHeader(status)
		io.WriteString(response, body)
	}
}

// Connections that idle are closed when the mode says so; all of them are known, so that they can be closed when nobody is to be served.
func changed(conn net.Conn, state http.ConnState) {
	lock.Lock()
	defer lock.Unlock()
	if timer := open[conn]; timer != nil {
		timer.Stop()
	}
	switch state {
	case http.StateClosed, http.StateHijacked:
		delete(open, conn)
	case http.StateIdle:
		open[conn] = nil
		if mode == "idle" {
			open[conn] = time.AfterFunc(time.Duration(argument)*time.Millisecond, func() { conn.Close() })
		}
	default:
		open[conn] = nil
	}
}

func main() {
	port, modeFile, name := os.Args[1], os.Args[2], os.Args[4]
	deliveries, err := os.OpenFile(os.Args[3], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		panic(err)
	}
	server := &http.Server{Handler: answer(name, deliveries), ConnState: changed}
	for {
		text, _ := os.ReadFile(modeFile)
		words := append(strings.Fields(string(text)), "ok", "0")
		lock.Lock()
		mode = words[0]
		argument, _ = strconv.Atoi(words[1])
		if mode == "refuse" && listener != nil {
			listener.Close()
			listener = nil
			for conn := range open {
				conn.Close()
			}
		} else if mode != "refuse" && listener == nil {
			if made, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
				listener = made
				go server.Serve(made)
			}
		}
		lock.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
}
