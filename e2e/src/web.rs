//! A web server for functions that fetch.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A web server on this machine that answers with what it was asked, and at `/moved` with a redirect. It ends with its
/// runtime.
///
/// # Errors
/// When there is no port for it.
pub async fn web_server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let asked = read_request(&mut stream).await?;
    let text = String::from_utf8_lossy(&asked);
    let first = text.lines().next().unwrap_or_default();
    let payload = text.split_once("\r\n\r\n").map_or("", |(_, payload)| payload);
    let said = format!("{first} [{payload}]");
    let status = if first.contains(" /moved ") { "302 Found\r\nLocation: /elsewhere" } else { "200 OK" };
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nX-Served: yes\r\nConnection: close\r\n\r\n", said.len());
    let answer = if first.starts_with("HEAD") { head } else { head + &said };
    stream.write_all(answer.as_bytes()).await
}

/// Head and body of a request, as far as they come.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut asked = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&asked);
        if let Some((head, payload)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if payload.len() >= length.unwrap_or(0) {
                return Ok(asked);
            }
        }
        if stream.read_buf(&mut asked).await? == 0 {
            return Ok(asked);
        }
    }
}
