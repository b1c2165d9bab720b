package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

const (
	workloadID = "cq2b5l6g10l0a0v6rd70"
	requestID  = "5f0c1f3e-6b1d-4f5a-9c3e-2d7b8a9e0f11"
	year2100   = 4_102_444_800
)

// A key made from a text that everybody can read: good for vectors and for nothing else.
type key struct {
	Seed   string `json:"seed"`
	Public string `json:"public"`
	pair   nkeys.KeyPair
}

func testKey(kind nkeys.PrefixByte, label string) (key, error) {
	raw := sha256.Sum256([]byte("nex conformance vectors: " + label))
	seed, err := nkeys.EncodeSeed(kind, raw[:])
	if err != nil {
		return key{}, err
	}
	open := nkeys.FromSeed
	if kind == nkeys.PrefixByteCurve {
		open = nkeys.FromCurveSeed
	}
	pair, err := open(seed)
	if err != nil {
		return key{}, err
	}
	public, err := pair.PublicKey()
	return key{string(seed), public, pair}, err
}

// A claim as the library made it: the token, and its parts as JSON.
type claim struct {
	Token  string          `json:"token"`
	Header json.RawMessage `json:"header"`
	Body   json.RawMessage `json:"body"`
}

// asClaim checks that the library accepts the token and splits it.
func asClaim(token string) (claim, error) {
	if _, err := jwt.DecodeGeneric(token); err != nil {
		return claim{}, err
	}
	parts := strings.Split(token, ".")
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		return claim{}, err
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	return claim{token, header, body}, err
}

type sealed struct {
	Sender    string `json:"sender"`
	Recipient string `json:"recipient"`
	Clear     string `json:"clear"`
	Sealed    string `json:"sealed"`
}

func identityVectors() ([]document, error) {
	keys := map[string]key{}
	for label, kind := range map[string]nkeys.PrefixByte{
		"issuer":    nkeys.PrefixByteAccount,
		"node":      nkeys.PrefixByteServer,
		"publisher": nkeys.PrefixByteCurve,
		"node_xkey": nkeys.PrefixByteCurve,
	} {
		made, err := testKey(kind, label)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", label, err)
		}
		keys[label] = made
	}
	claims, err := goClaims(keys["issuer"].pair)
	if err != nil {
		return nil, err
	}
	boxes := map[string]sealed{}
	for name, environment := range map[string]map[string]string{
		"variables": {"nats_url": "nats://127.0.0.1", "PASS": "p\"w <&> ü\n", "EMPTY": ""},
		"empty":     {},
		"nil":       nil,
	} {
		clear, err := json.Marshal(environment)
		if err != nil {
			return nil, err
		}
		box, err := keys["publisher"].pair.Seal(clear, keys["node_xkey"].Public)
		if err != nil {
			return nil, err
		}
		boxes[name] = sealed{keys["publisher"].Public, keys["node_xkey"].Public, string(clear),
			base64.StdEncoding.EncodeToString(box)}
	}
	return append([]document{encode("keys", keys), encode("sealed", boxes)}, claims...), nil
}

// goClaims encodes one claim of every form. The library sets the time itself.
func goClaims(issuer nkeys.KeyPair) ([]document, error) {
	data := func(subject string, data map[string]any) *jwt.GenericClaims {
		claims := jwt.NewGenericClaims(subject)
		for name, value := range data {
			claims.Data[name] = value
		}
		return claims
	}
	all := data("echo", map[string]any{"hash": hash, "count": 3, "list": []string{"a"}})
	all.Audience, all.Name, all.Expires, all.NotBefore = "nex", "a name", year2100, 1_700_000_000
	forms := []struct {
		name   string
		claims *jwt.GenericClaims
	}{
		{"claim_deploy", data("echo", map[string]any{"hash": hash})},
		{"claim_deploy_rc1", data(requestID, map[string]any{"name": "echo", "hash": hash})},
		{"claim_stop", data("echo", nil)},
		{"claim_stop_rc1", data(workloadID, nil)},
		{"claim_all_fields", all},
	}
	var documents []document
	for _, form := range forms {
		token, err := form.claims.Encode(issuer)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", form.name, err)
		}
		made, err := asClaim(token)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", form.name, err)
		}
		documents = append(documents, encode(form.name, made))
	}
	// The library reads version 1 and does not write it: there the signature is over the body alone.
	public, err := issuer.PublicKey()
	if err != nil {
		return nil, err
	}
	body := fmt.Sprintf(`{"jti":"OLD","iat":1577836800,"iss":%q,"sub":"echo","nats":{"hash":%q}}`, public, hash)
	encoded := base64.RawURLEncoding.EncodeToString([]byte(body))
	signature, err := issuer.Sign([]byte(encoded))
	if err != nil {
		return nil, err
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"jwt","alg":"ed25519"}`))
	old, err := asClaim(header + "." + encoded + "." + base64.RawURLEncoding.EncodeToString(signature))
	if err != nil {
		return nil, fmt.Errorf("claim_version_1: %w", err)
	}
	return append(documents, encode("claim_version_1", old)), nil
}

// The file of vectors made by the Rust code.
type reverse struct {
	Keys   map[string]key `json:"keys"`
	Claims map[string]struct {
		Token   string         `json:"token"`
		Subject string         `json:"sub"`
		Issued  int64          `json:"iat"`
		Data    map[string]any `json:"nats"`
	} `json:"claims"`
	Sealed struct {
		Sender    string            `json:"sender"`
		Recipient string            `json:"recipient"`
		Clear     map[string]string `json:"clear"`
		Sealed    string            `json:"sealed"`
	} `json:"sealed"`
}

// verifyReverse checks with the libraries what the Rust code made.
func verifyReverse(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var vectors reverse
	if err := json.Unmarshal(text, &vectors); err != nil {
		return err
	}
	if len(vectors.Claims) == 0 || len(vectors.Keys) == 0 {
		return errors.New("no vectors in " + path)
	}
	for label, made := range vectors.Keys {
		open := nkeys.FromSeed
		if strings.HasPrefix(made.Seed, "SX") {
			open = nkeys.FromCurveSeed
		}
		pair, err := open([]byte(made.Seed))
		if err != nil {
			return fmt.Errorf("key %s: %w", label, err)
		}
		if public, err := pair.PublicKey(); err != nil || public != made.Public {
			return fmt.Errorf("key %s: its public key is %s (%v), not %s", label, public, err, made.Public)
		}
		made.pair = pair
		vectors.Keys[label] = made
	}
	for label, made := range vectors.Claims {
		claims, err := jwt.DecodeGeneric(made.Token)
		if err != nil {
			return fmt.Errorf("claim %s: %w", label, err)
		}
		results := jwt.CreateValidationResults()
		claims.Validate(results)
		if !results.IsEmpty() {
			return fmt.Errorf("claim %s: %v", label, results.Errors())
		}
		same, err := equalJSON(claims.Data, made.Data)
		if err != nil {
			return err
		}
		if claims.Issuer != vectors.Keys["issuer"].Public || claims.Subject != made.Subject ||
			claims.IssuedAt != made.Issued || !same {
			return fmt.Errorf("claim %s reads as %v", label, claims)
		}
	}
	box, err := base64.StdEncoding.DecodeString(vectors.Sealed.Sealed)
	if err != nil {
		return err
	}
	clear, err := vectors.Keys["node_xkey"].pair.Open(box, vectors.Sealed.Sender)
	if err != nil {
		return fmt.Errorf("sealed environment: %w", err)
	}
	var environment map[string]string
	if err := json.Unmarshal(clear, &environment); err != nil {
		return fmt.Errorf("sealed environment: %w", err)
	}
	if same, err := equalJSON(environment, vectors.Sealed.Clear); err != nil || !same {
		return fmt.Errorf("sealed environment reads as %q (%v)", environment, err)
	}
	fmt.Printf("verified at %s: %d keys, %d claims, 1 sealed environment\n",
		time.Now().UTC().Format(time.DateOnly), len(vectors.Keys), len(vectors.Claims))
	return nil
}

func equalJSON(a, b any) (bool, error) {
	left, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	right, err := json.Marshal(b)
	return string(left) == string(right), err
}
