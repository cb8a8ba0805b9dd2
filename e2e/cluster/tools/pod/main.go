// Command pod is the one program of the node's own images, static and alone in them.
//
//	pod pause        holds the namespaces of a pod
//	pod serve PORT   answers every GET with the pod's host name, until it is told to end
//	pod get URL      prints what a GET is answered with
//	pod eat          takes memory until somebody ends it
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 1 && arguments[0] == "pause":
		waitForTheEnd()
	case len(arguments) == 2 && arguments[0] == "serve":
		err = serve(":" + arguments[1])
	case len(arguments) == 2 && arguments[0] == "get":
		err = get(arguments[1])
	case len(arguments) == 1 && arguments[0] == "eat":
		eat()
	default:
		err = fmt.Errorf("unknown arguments: %q", arguments)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The first process of a namespace gets no signal that it did not ask for.
func waitForTheEnd() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	// With a shared pid namespace it is everybody's parent.
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-end:
			return
		case <-children:
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	go func() {
		waitForTheEnd()
		os.Exit(0)
	}()
	fmt.Println("serving on", address)
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "hello from", name)
	}))
}

func get(url string) error {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}

func eat() {
	var eaten [][]byte
	for {
		bite := make([]byte, 1<<20)
		// Only what was written to is there.
		for at := 0; at < len(bite); at += 4096 {
			bite[at] = 1
		}
		eaten = append(eaten, bite)
	}
}
