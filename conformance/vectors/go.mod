module nexvectors

go 1.22

require (
	github.com/cloudevents/sdk-go/v2 v2.15.2
	github.com/nats-io/jwt/v2 v2.5.7
	github.com/nats-io/nkeys v0.4.7
)

require (
	github.com/json-iterator/go v1.1.10 // indirect
	github.com/modern-go/concurrent v0.0.0-20180228061459-e0a39a4cb421 // indirect
	github.com/modern-go/reflect2 v0.0.0-20180701023420-4b7aa43c6742 // indirect
	golang.org/x/crypto v0.19.0 // indirect
	golang.org/x/sys v0.17.0 // indirect
)
