import java.io.ByteArrayOutputStream;
import java.io.OutputStream;
import javax.crypto.Mac;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;
import org.bouncycastle.asn1.DERNull;
import org.bouncycastle.asn1.pkcs.PBKDF2Params;
import org.bouncycastle.asn1.pkcs.PBMAC1Params;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.operator.GenericKey;
import org.bouncycastle.operator.MacCalculator;

/**
 * PBMAC1 (RFC 8018 section 7.1) by the JDK, as the standard has it: BouncyCastle 1.80 makes such MACs too, but names PBES2
 * (1.2.840.113549.1.5.13) where PBKDF2 belongs. It verifies what names it rightly.
 */
final class Pbmac1 implements MacCalculator {
    private final AlgorithmIdentifier algorithm;
    private final Mac mac;
    private final ByteArrayOutputStream text = new ByteArrayOutputStream();

    Pbmac1(char[] secret) throws Exception {
        AlgorithmIdentifier hmac = new AlgorithmIdentifier(PKCSObjectIdentifiers.id_hmacWithSHA256, DERNull.INSTANCE);
        byte[] salt = Client.random(16);
        PBKDF2Params kdf = new PBKDF2Params(salt, 2048, 32, hmac);
        algorithm = new AlgorithmIdentifier(PKCSObjectIdentifiers.id_PBMAC1, new PBMAC1Params(new AlgorithmIdentifier(PKCSObjectIdentifiers.id_PBKDF2, kdf), hmac));
        byte[] key = SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256", "SunJCE").generateSecret(new PBEKeySpec(secret, salt, 2048, 256)).getEncoded();
        mac = Mac.getInstance("HmacSHA256", "SunJCE");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
    }

    public AlgorithmIdentifier getAlgorithmIdentifier() {
        return algorithm;
    }

    public OutputStream getOutputStream() {
        return text;
    }

    public byte[] getMac() {
        return mac.doFinal(text.toByteArray());
    }

    public GenericKey getKey() {
        throw new UnsupportedOperationException();
    }
}
