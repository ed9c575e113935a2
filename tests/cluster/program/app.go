package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var started = time.Now()

// An application: it sends requests at a steady rate, tells the servers how it goes, and after SIGTERM sends on for two
// seconds, as one that works off what it has begun.
type application struct {
	sync.Mutex
	report
	client  *http.Client
	url     string
	header  []string
	reports string
}

func app() error {
	workers, rate := number("WORKERS", 4), number("RATE", 30)
	header := strings.SplitN(os.Getenv("HEADER"), ":", 2)
	a := &application{
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers + 1}},
		url:    os.Getenv("BILLING_URL") + "/invoices",
		header: header,
		reports: fmt.Sprintf("http://control.cluster-test.svc.cluster.local:8081/%s/report?pod=%s",
			podNamespace(), os.Getenv("HOSTNAME")),
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() { a.work(stop, worker, time.Duration(workers)*time.Second/time.Duration(rate)) })
	}
	if os.Getenv("SLOW") != "0" {
		all.Go(func() { a.download(stop) })
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	for {
		select {
		case <-time.After(500 * time.Millisecond):
			a.tell()
		case <-ended:
			time.Sleep(2 * time.Second)
			close(stop)
			all.Wait()
			a.Lock()
			a.Ended = true
			a.Unlock()
			return a.tell()
		}
	}
}

// GET and POST in turn.
func (a *application) work(stop chan struct{}, worker int, every time.Duration) {
	due := time.Now().Add(every * time.Duration(worker) / time.Duration(number("WORKERS", 4)))
	for n := worker; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Until(due)):
		}
		if n%2 == 0 {
			a.request("GET", a.url, nil, 1024)
		} else {
			a.request("POST", a.url, make([]byte, 2048), 1024)
		}
		due = due.Add(every)
	}
}

// Responses that take two seconds each, so that there is always one on its way.
func (a *application) download(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
			a.request("GET", a.url+"?chunks=20", nil, 20*1024)
		}
	}
}

func (a *application) request(method, url string, body []byte, wanted int) {
	err := a.try(method, url, body, wanted)
	if err != nil {
		defer time.Sleep(100 * time.Millisecond)
	}
	a.Lock()
	defer a.Unlock()
	a.Requests++
	if err != nil {
		a.Lost++
		fmt.Println("LOST", err)
		if len(a.Errors) < 5 {
			a.Errors = append(a.Errors, time.Now().Format("15:04:05.000 ")+err.Error())
		}
	} else if a.Requests == 1 {
		fmt.Println("first response after", time.Since(started).Round(time.Millisecond))
	}
}

func (a *application) try(method, url string, body []byte, wanted int) error {
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if len(a.header) == 2 {
		request.Header.Set(a.header[0], a.header[1])
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode != 200 || len(got) != wanted) {
		err = fmt.Errorf("%s %s: %s, %d bytes: %.300q", method, url, response.Status, len(got), got)
	}
	return err
}

func (a *application) tell() error {
	a.Lock()
	said, _ := json.Marshal(a.report)
	a.Unlock()
	response, err := http.Post(a.reports, "application/json", bytes.NewReader(said))
	if err != nil {
		fmt.Println("report:", err)
		return err
	}
	return response.Body.Close()
}

// A job: twenty requests, and an error ends it.
func job(url string) error {
	a := &application{client: &http.Client{Timeout: 30 * time.Second}}
	for range 20 {
		if err := a.try("GET", url, nil, 1024); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("20 responses")
	return nil
}

// Sends a signal to the processes of that name that it can see (`shareProcessNamespace`) and may reach.
func send(name, program string) error {
	signals := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP}
	found, err := process(program)
	if err != nil {
		return err
	}
	return syscall.Kill(found, signals[name])
}

func process(program string) (int, error) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, file := range files {
		if text, _ := os.ReadFile(file); strings.TrimSpace(string(text)) == program {
			return strconv.Atoi(strings.Split(file, "/")[2])
		}
	}
	return 0, fmt.Errorf("no process is called %s", program)
}

// Tries until the first 200, and says how long after the start of bearerd's process it came. The kernel counts in
// hundredths of a second.
func start(url string) error {
	a := &application{client: &http.Client{Timeout: 30 * time.Second}}
	for a.try("GET", url, nil, 1024) != nil {
		time.Sleep(time.Millisecond)
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return err
	}
	pid, err := process("bearerd")
	if err != nil {
		return err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	now, _ := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	since, _ := strconv.ParseFloat(strings.Fields(string(stat))[21], 64)
	fmt.Printf("first response %.0f ms after bearerd's start\n", (now-since/100)*1000)
	select {}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// The pod's namespace, by its first search domain: pods without a service account's token have no other file that names it.
func podNamespace() string {
	text, _ := os.ReadFile("/etc/resolv.conf")
	_, search, _ := strings.Cut(string(text), "search ")
	name, _, _ := strings.Cut(search, ".")
	return name
}
