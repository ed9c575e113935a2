// Reads compose files as `docker compose config` does, with the library that it is made of, and prints them as JSON.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	text, err := load(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(text)
}

func load(files []string) ([]byte, error) {
	options, err := cli.NewProjectOptions(files, cli.WithConsistency(true), cli.WithResolvedPaths(false))
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}
