package harness

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// A User is somebody whom an operated server lets in.
type User struct {
	JWT  string
	Seed string
}

// StartOperated starts a server in operator mode, and makes a user of an account with JetStream.
func StartOperated(t testing.TB) (*Server, User) {
	t.Helper()
	operator := pair(t, nkeys.CreateOperator)
	system := pair(t, nkeys.CreateAccount)
	account := pair(t, nkeys.CreateAccount)
	user := pair(t, nkeys.CreateUser)
	operatorClaims := jwt.NewOperatorClaims(public(t, operator))
	// The server has no JetStream without one.
	operatorClaims.SystemAccount = public(t, system)
	operatorJWT := encode(t, operatorClaims, operator)
	systemJWT := encode(t, jwt.NewAccountClaims(public(t, system)), operator)
	accountClaims := jwt.NewAccountClaims(public(t, account))
	accountClaims.Limits.JetStreamLimits.DiskStorage = jwt.NoLimit
	accountClaims.Limits.JetStreamLimits.MemoryStorage = jwt.NoLimit
	accountJWT := encode(t, accountClaims, operator)
	userJWT := encode(t, jwt.NewUserClaims(public(t, user)), account)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	url := startServer(t, fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s, %s: %s }",
		operatorJWT, public(t, system), systemJWT, public(t, account), accountJWT))
	conn := connect(t, url, nats.UserJWTAndSeed(userJWT, string(seed)))
	return &Server{URL: url, Conn: conn}, User{JWT: userJWT, Seed: string(seed)}
}

// Answered says whether anybody listens to a subject of a server.
func Answered(t testing.TB, server *Server, subject string) bool {
	t.Helper()
	_, err := server.Conn.Request(subject, nil, patience)
	if err != nil && !errors.Is(err, nats.ErrNoResponders) {
		t.Fatal(err)
	}
	return err == nil
}

func pair(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	text, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func encode(t testing.TB, claims jwt.Claims, issuer nkeys.KeyPair) string {
	t.Helper()
	token, err := claims.Encode(issuer)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
