module nexconformance/harness

go 1.25

require (
	github.com/nats-io/jwt/v2 v2.5.7
	github.com/nats-io/nats.go v1.36.0
	github.com/nats-io/nkeys v0.4.7
	github.com/synadia-io/nex v0.0.0-20240702161350-f8cce652724a
)

require (
	github.com/cloudevents/sdk-go v1.2.0 // indirect
	github.com/golang/groupcache v0.0.0-20210331224755-41bb18bfe9da // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/lightstep/tracecontext.go v0.0.0-20181129014701-1757c391b1ac // indirect
	github.com/pkg/errors v0.9.1 // indirect
	go.opencensus.io v0.24.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.0 // indirect
)

require (
	github.com/klauspost/compress v1.17.9 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	golang.org/x/crypto v0.24.0 // indirect
	golang.org/x/sys v0.21.0 // indirect
	golang.org/x/text v0.16.0 // indirect
)
