// Fetches a token with golang.org/x/oauth2, as a program does, and prints it with its lifetime: URL CLIENT SECRET [SCOPE]
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/oauth2/clientcredentials"
)

func main() {
	config := clientcredentials.Config{TokenURL: os.Args[1], ClientID: os.Args[2], ClientSecret: os.Args[3], Scopes: os.Args[4:]}
	token, err := config.Token(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(token.AccessToken, token.Type(), int(time.Until(token.Expiry).Seconds()))
}
