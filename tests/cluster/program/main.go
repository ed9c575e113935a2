// What the cluster's tests need beside bearerd: an issuer and an API, an application that sends requests, a job. It uses
// the standard library alone, so one static file is the whole image. Arguments say which part it plays.
package main

import (
	"fmt"
	"os"
)

func main() {
	part := "app"
	if len(os.Args) > 1 {
		part = os.Args[1]
	}
	var err error
	switch part {
	case "app":
		err = app()
	case "--from":
		err = job(os.Args[2])
	case "servers":
		err = servers()
	case "signal":
		err = send(os.Args[2], os.Args[3])
	case "start":
		err = start(os.Args[2])
	default:
		err = fmt.Errorf("%s is no part that this program plays", part)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
